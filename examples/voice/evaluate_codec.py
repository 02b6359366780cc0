"""Compares held-out speech with what the codec makes of it.

    python examples/voice/evaluate_codec.py codec corpus/held_out.jsonl
    python examples/voice/evaluate_codec.py codec corpus/held_out.jsonl --recognizers pocketsphinx:words --limit 30
    python examples/voice/evaluate_codec.py codec corpus/held_out.jsonl --spectrogram codec.png --audio resynthesis

Prints JSON: for each recogniser the word error rate of the original and of the resynthesis with a 95 % interval of the
difference (bootstrap over utterances), log-mel distance, DNSMOS and speaker similarity of both, and the speed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch
from torch.nn import functional as F
from tqdm import tqdm

from smalle_hf.layers_small_codec import LogMelSpectrogram
from smalle_hf.metrics.mos_models import SpeechMosModel
from smalle_hf.metrics.recognizers import create_recognizer
from smalle_hf.metrics.speaker_models import create_speaker_model
from smalle_hf.metrics.text import scoring_text
from smalle_hf.modeling_small_codec import SmallCodecModel


@dataclass
class Pair:
    """An utterance and its resynthesis, `(samples,)` each."""

    id: str
    text: str
    speaker: str
    original: np.ndarray
    resynthesis: np.ndarray


@torch.inference_mode()
def resynthesize(codec: SmallCodecModel, manifest: Path, limit: int | None) -> tuple[list[Pair], dict[str, float]]:
    """Encodes and decodes every utterance of a manifest; also how many times faster than real time that was."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()][:limit]
    pairs, seconds, encoding, decoding = [], 0.0, 0.0, 0.0
    for row in tqdm(rows, unit="utterance", desc="codec", disable=None):
        original, rate = soundfile.read(manifest.parent / row["path"], dtype="float32")
        if rate != codec.config.sampling_rate:
            raise ValueError(f"{row['path']} is at {rate} Hz, the codec at {codec.config.sampling_rate} Hz.")
        start = time.perf_counter()
        codes = codec.encode(torch.from_numpy(original)[None, None]).audio_codes
        between = time.perf_counter()
        audio = codec.decode(codes).audio_values[0, 0, : len(original)].numpy()
        encoding, decoding = encoding + between - start, decoding + time.perf_counter() - between
        seconds += len(original) / rate
        pairs.append(Pair(row["id"], row["text"], row["speaker"], original, audio))
    return pairs, {"encoding_x_real_time": seconds / encoding, "decoding_x_real_time": seconds / decoding}


def word_errors(pairs: list[Pair], recognizer: str, sampling_rate: int) -> dict[str, object]:
    """Word error rates of originals and resyntheses, in percent, over all and by speaker."""
    listen = create_recognizer(recognizer, texts=[pair.text for pair in pairs])
    references = [scoring_text(pair.text) for pair in pairs]
    words = np.array([len(reference.split()) for reference in references])
    errors = {}
    for kind in ("original", "resynthesis"):
        waveforms = [getattr(pair, kind) for pair in pairs]
        heard = [
            scoring_text(listen(waveform, sampling_rate)) for waveform in tqdm(waveforms, desc=kind, disable=None)
        ]
        errors[kind] = np.array([_count_errors(*texts) for texts in zip(references, heard, strict=True)])
    speakers = np.array([pair.speaker for pair in pairs])
    rates: dict[str, object] = {kind: 100 * count.sum() / words.sum() for kind, count in errors.items()}
    surplus = errors["resynthesis"] - errors["original"]
    rates["difference"] = 100 * surplus.sum() / words.sum()
    draws = np.random.default_rng(0).integers(len(pairs), size=(2000, len(pairs)))
    interval = np.percentile(100 * surplus[draws].sum(axis=1) / words[draws].sum(axis=1), [2.5, 97.5])
    rates["difference_interval"] = interval.tolist()
    for speaker in sorted(set(speakers)):
        chosen = speakers == speaker
        rates[f"difference_{speaker}"] = 100 * surplus[chosen].sum() / words[chosen].sum()
    return rates


def _count_errors(reference: str, heard: str) -> int:
    result = jiwer.process_words(reference, heard)
    return result.substitutions + result.insertions + result.deletions


def mel_distance(pairs: list[Pair], codec: SmallCodecModel) -> float:
    """Mean absolute difference of the natural-log mel spectrograms."""
    mel = LogMelSpectrogram(codec.config)
    distances = []
    for pair in pairs:
        spectra = [mel(torch.from_numpy(waveform)[None]) for waveform in (pair.original, pair.resynthesis)]
        distances.append(F.l1_loss(*spectra).item())
    return float(np.mean(distances))


def mean_opinion_scores(pairs: list[Pair], sampling_rate: int) -> dict[str, float]:
    """DNSMOS of both sides."""
    model = SpeechMosModel()

    def mean(waveform: Callable[[Pair], np.ndarray]) -> float:
        return float(np.mean([model(waveform(pair), sampling_rate)["mos"] for pair in pairs]))

    return {"original": mean(lambda pair: pair.original), "resynthesis": mean(lambda pair: pair.resynthesis)}


def speaker_similarity(pairs: list[Pair], sampling_rate: int) -> float:
    """Mean cosine similarity of the speaker embeddings of original and resynthesis."""
    embed = create_speaker_model("resemblyzer")
    similarities = []
    for pair in pairs:
        one, two = (embed(waveform, sampling_rate) for waveform in (pair.original, pair.resynthesis))
        similarities.append(np.dot(one, two) / (np.linalg.norm(one) * np.linalg.norm(two)))
    return float(np.mean(similarities))


def draw_spectrograms(pair: Pair, path: Path, sampling_rate: int) -> None:
    """Writes a picture: original above, resynthesis below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 1), ("original", "resynthesis"), strict=True):
        axes.specgram(getattr(pair, kind) + 1e-9, NFFT=512, Fs=sampling_rate, noverlap=384, vmin=-130, vmax=-30)
        axes.set(title=f"{kind}: {pair.text}", xlabel="seconds", ylabel="Hz")
    figure.savefig(path, dpi=80)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec", type=Path, help="folder of the codec")
    parser.add_argument("manifest", type=Path, help="JSONL with `id`, `path`, `text`, `speaker`")
    parser.add_argument("--recognizers", nargs="*", default=["pocketsphinx", "pocketsphinx:words"])
    parser.add_argument("--limit", type=int, help="only the first utterances")
    parser.add_argument("--num-judged", type=int, default=60, help="utterances for DNSMOS and speaker similarity (60)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--spectrogram", type=Path, help="write a picture of the first utterance")
    parser.add_argument("--audio", type=Path, help="write the resynthesised utterances into this folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        codec = SmallCodecModel.from_pretrained(options.codec).eval()
        rate = codec.config.sampling_rate
        pairs, speed = resynthesize(codec, options.manifest, options.limit)
        judged = pairs[: options.num_judged]
        report: dict[str, object] = {"utterances": len(pairs), **speed, "mel_distance": mel_distance(pairs, codec)}
        report |= {"dnsmos": mean_opinion_scores(judged, rate), "similarity": speaker_similarity(judged, rate)}
        report |= {f"wer {name}": word_errors(pairs, name, rate) for name in options.recognizers}
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.spectrogram:
        draw_spectrograms(pairs[0], options.spectrogram, rate)
    if options.audio:
        options.audio.mkdir(parents=True, exist_ok=True)
        for pair in pairs:
            soundfile.write(options.audio / f"{pair.id}.wav", pair.resynthesis, rate)
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
