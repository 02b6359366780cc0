"""Makes a speech corpus with exact transcripts: random sentences read by the voices of the flite synthesiser.

    apt-get install flite scowl
    python examples/voice/make_corpus.py corpus --hours 10
    python examples/voice/make_corpus.py corpus --hours 0.1 --voices slt --held-out 10 --workers 1

Writes `OUT/audio/VOICE/ID.flac` (16 kHz, mono), `OUT/train.jsonl` and `OUT/held_out.jsonl`, one object a line with
`id`, `path` (relative to the manifest), `text`, `speaker`, `language`, `licence`, `duration` (seconds) and
`sampling_rate`. The same options give the same corpus, and a run that was stopped goes on where it was. The voices
and the synthesiser are under the CMU Flite licence (SPDX `MIT-Festival`), which lets anyone use and redistribute them
and what they say.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from lexicon import SCOWL_DIRECTORY, build_lexicon, read_scowl
from sentences import SentenceGenerator, unique_sentences
from tqdm import tqdm

VOICES = ("slt", "rms", "awb")
LICENCE = "MIT-Festival"
SAMPLING_RATE = 16000
SECONDS_PER_SENTENCE = (
    3.2  # mean over the generator's sentences; sizes the corpus, exact hours are reported at the end
)


@dataclass(frozen=True)
class Utterance:
    """One line of the manifest; `duration` is 0 until the audio is there."""

    id: str
    path: str
    text: str
    speaker: str
    language: str = "en"
    licence: str = LICENCE
    duration: float = 0.0
    sampling_rate: int = SAMPLING_RATE


def trim_silence(
    waveform: np.ndarray, sampling_rate: int, threshold: float = 0.004, before: float = 0.1, after: float = 0.16
) -> np.ndarray:
    """Cuts silence at both ends, so that every utterance begins and ends alike.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Speech, full scale 1.
        sampling_rate (`int`): In Hz.
        threshold (`float`, defaults to 0.004): Root mean square of 10 ms below which it is silence.
        before (`float`, defaults to 0.1): Seconds kept before the first sound.
        after (`float`, defaults to 0.16): Seconds kept after the last sound.

    Returns:
        `np.ndarray` of shape `(kept samples,)`: A view; the whole waveform if all of it is silence.
    """
    window = sampling_rate // 100
    blocks = waveform[: len(waveform) // window * window].reshape(-1, window)
    loud = np.flatnonzero(np.sqrt((blocks.astype(np.float64) ** 2).mean(axis=1)) > threshold)
    if not len(loud):
        return waveform
    start = max(int(loud[0]) * window - round(before * sampling_rate), 0)
    return waveform[start : (int(loud[-1]) + 1) * window + round(after * sampling_rate)]


def plan_corpus(
    voices: Sequence[str], hours: float, held_out: int, seed: int
) -> tuple[list[Utterance], list[Utterance]]:
    """Draws the sentences of both splits and gives each to a voice. No sentence comes twice.

    Args:
        voices (`Sequence[str]`): Names of flite voices.
        hours (`float`): Hours of training speech over all voices, about.
        held_out (`int`): Held-out sentences per voice; ordinary ones only.
        seed (`int`): The same seed gives the same sentences.

    Returns:
        `tuple[list[Utterance], list[Utterance]]`: Training and held-out utterances.
    """
    lexicon = build_lexicon(read_scowl())
    seen: set[str] = set()
    held_out_generator = SentenceGenerator(lexicon, random.Random(f"held-out {seed}"))
    training_generator = SentenceGenerator(lexicon, random.Random(f"training {seed}"))
    count = round(hours * 3600 / SECONDS_PER_SENTENCE)
    splits = {
        "held-out": list(unique_sentences(held_out_generator, held_out * len(voices), True, seen)),
        "train": list(unique_sentences(training_generator, count, False, seen)),
    }
    planned = {
        split: [
            Utterance(name, f"audio/{voice}/{name}.flac", text, voice)
            for index, text in enumerate(texts)
            for voice in [voices[index % len(voices)]]
            for name in [f"{voice}-{split}-{index // len(voices):06d}"]
        ]
        for split, texts in splits.items()
    }
    return planned["train"], planned["held-out"]


def synthesise(text: str, voice: str) -> np.ndarray:
    """Lets flite read a text.

    Returns:
        `np.ndarray` of shape `(samples,)`, 16 bit, 16 kHz, silence at both ends cut.

    Raises:
        RuntimeError: flite failed, or the voice does not speak at 16 kHz.
    """
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        result = subprocess.run(
            ["flite", "-voice", voice, "-t", text, "-o", file.name], capture_output=True, text=True
        )
        if result.returncode:
            raise RuntimeError(f"flite could not read {text!r} as {voice}: {result.stderr.strip()[-200:]}")
        waveform, sampling_rate = soundfile.read(file.name, dtype="int16")
    if sampling_rate != SAMPLING_RATE:
        raise RuntimeError(f"Voice {voice} speaks at {sampling_rate} Hz, not {SAMPLING_RATE}: choose another voice.")
    kept = trim_silence(waveform / 32768.0, sampling_rate)
    return (kept * 32768.0).astype(np.int16)


def make_utterance(utterance: Utterance, directory: Path) -> Utterance:
    """Writes the audio of one utterance unless it is there, and fills in the duration."""
    path = directory / utterance.path
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        soundfile.write(temporary, synthesise(utterance.text, utterance.speaker), SAMPLING_RATE, format="FLAC")
        os.replace(temporary, path)
    return replace(utterance, duration=round(soundfile.info(path).duration, 4))


def _make(job: tuple[Utterance, Path]) -> Utterance:
    return make_utterance(*job)


def write_manifest(utterances: Sequence[Utterance], path: Path) -> None:
    """Writes one JSON object a line, to a temporary name first."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(asdict(item)) + "\n" for item in utterances), encoding="utf-8")
    os.replace(temporary, path)


def check_options(out: Path, options: dict[str, object]) -> None:
    """Refuses to mix two corpora in one folder.

    Raises:
        ValueError: The folder was made with other options.
    """
    path = out / "options.json"
    if path.exists() and json.loads(path.read_text()) != options:
        raise ValueError(f"{out} was made with other options ({path.name}): give another folder or the same options.")
    path.write_text(json.dumps(options))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--hours", type=float, default=10.0, help="hours of training speech, about (10)")
    parser.add_argument("--voices", nargs="+", default=list(VOICES), help="flite voices (slt rms awb)")
    parser.add_argument("--held-out", type=int, default=100, help="held-out sentences per voice (100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (one per core)")
    options = parser.parse_args()
    if shutil.which("flite") is None:
        print("flite not found: install it (apt-get install flite).", file=sys.stderr)
        return 1
    try:
        if not SCOWL_DIRECTORY.exists():
            raise FileNotFoundError(
                f"{SCOWL_DIRECTORY} not found: install the package `scowl` (apt-get install scowl)."
            )
        for voice in options.voices:
            (options.out / "audio" / voice).mkdir(parents=True, exist_ok=True)
        chosen = {name: getattr(options, name) for name in ("hours", "voices", "held_out", "seed")}
        check_options(options.out, chosen)
        training, held_out = plan_corpus(options.voices, options.hours, options.held_out, options.seed)
        jobs = [(utterance, options.out) for utterance in held_out + training]
        with multiprocessing.Pool(options.workers) as pool:
            made = list(tqdm(pool.imap(_make, jobs, chunksize=16), total=len(jobs), unit="sentence", disable=None))
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    write_manifest(made[: len(held_out)], options.out / "held_out.jsonl")
    write_manifest(made[len(held_out) :], options.out / "train.jsonl")
    hours = sum(item.duration for item in made[len(held_out) :]) / 3600
    print(f"{options.out}: {len(training)} training sentences, {hours:.2f} hours; {len(held_out)} held out.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
