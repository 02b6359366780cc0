"""Ten minutes of speech in one go: does the voice stay the same, and does memory grow?

    python examples/benchmarks/long_form.py --model outputs/my-voice
    python examples/benchmarks/long_form.py --model outputs/my-voice --text book.txt --minutes 60
    python examples/benchmarks/long_form.py --quick

Streams a long text, keeps no more than a minute of it, and compares the speaker of every minute with that of the first
one (cosine of Resemblyzer's embeddings, which is about 0.85 for one speaker and 0.6 for two). Memory is the resident
memory of the process at the end of each minute. Writes long_form.json and, where matplotlib is installed,
long_form.png; `--quick` takes random weights, seconds for minutes and no speaker model.
"""

import itertools
import platform
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from comparison import Results, Target, parse, report
from streaming import build
from tqdm import tqdm

from smalle_hf import stream_speech
from smalle_hf.onnx import SmallEOnnxModel
from smalle_hf.onnx import stream_speech as stream_exported

SENTENCES = (
    "The boat sailed along the coast, and nobody on the shore could tell where it went.",
    "A small dog slept beside the warm stove while the rain fell on the roof.",
    "Why did the old man close the gate before the wagon came?",
    "They carried seven baskets of red apples down the hill.",
    "When the wind turned, the children ran home through the wet grass.",
    "Nothing was left of the letter but a corner with half a name on it.",
)
MINUTE = 60.0
QUICK_MINUTE = 0.5
"""Seconds."""


def sentences(text: Path | None) -> Iterator[str]:
    """A text over and over, or sentences of our own."""
    return itertools.cycle(SENTENCES if text is None else [text.read_text(encoding="utf-8")])


def resident_memory() -> float:
    """Memory of this process in MiB: what it has, or, where only that is known, the most that it has had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        unit = 2**20 if platform.system() == "Darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return pages * resource.getpagesize() / 2**20


def minutes_of(chunks: Iterator[Any], samples_per_minute: int) -> Iterator[np.ndarray]:
    """The speech minute by minute; the last one only if it is whole."""
    minute, filled = np.zeros(samples_per_minute, dtype=np.float32), 0
    for chunk in chunks:
        audio = chunk.audio
        while len(audio):
            part = audio[: samples_per_minute - filled]
            minute[filled : filled + len(part)] = part
            audio, filled = audio[len(part) :], filled + len(part)
            if filled == samples_per_minute:
                yield minute
                filled = 0


def measure(options: Any) -> list[Results]:
    """One row per minute: similarity to the first one, memory, seconds of computing per second of audio."""
    model, processor, voice = build(options, options.threads[0])
    rate = model.config.sampling_rate
    length = QUICK_MINUTE if options.quick else MINUTE
    embed = None
    if not options.quick:
        from smalle_hf.metrics.speaker_models import create_speaker_model

        embed = create_speaker_model(options.speaker_model)
    speak = stream_exported if isinstance(model, SmallEOnnxModel) else stream_speech
    chunks = speak(sentences(options.text), model, processor, voice, seed=options.seed)
    rows: list[Results] = []
    first, started = None, time.perf_counter()
    minutes = itertools.islice(minutes_of(chunks, round(length * rate)), options.minutes)
    progress = tqdm(minutes, total=options.minutes, unit="minute", file=sys.stderr, disable=None, leave=False)
    for index, minute in enumerate(progress, start=1):
        spoken = time.perf_counter()
        row: Results = {"minute": index, "real_time_factor": (spoken - started) / length}
        if embed is not None:
            speaker = embed(minute, rate)
            first = speaker if first is None else first
            row["similarity_to_minute_1"] = float(speaker @ first)
        rows.append({**row, "resident_mib": resident_memory()})
        started = time.perf_counter()
    return rows


def judge(rows: Sequence[Results]) -> list[Target]:
    """The last minute against the first one."""
    rows = sorted(rows, key=lambda row: row["minute"])
    last = rows[-1]
    growth = last["resident_mib"] - rows[min(1, len(rows) - 1)]["resident_mib"]
    targets = [Target(f"MiB that minute {last['minute']} has more than minute 2", growth, 5.0)]
    if "similarity_to_minute_1" in last:
        name = f"similarity of the speaker of minute {last['minute']} to that of minute 1"
        targets.append(Target(name, last["similarity_to_minute_1"], 0.9, at_least=True))
    return targets


def draw(figure: Any, phases: Results) -> None:
    """Similarity and memory over time."""
    similarity, memory = figure.subplots(1, 2)
    for name, phase in phases.items():
        rows = sorted(phase["rows"], key=lambda row: row["minute"])
        minutes = [row["minute"] for row in rows]
        if "similarity_to_minute_1" in rows[0]:
            similarity.plot(minutes, [row["similarity_to_minute_1"] for row in rows], marker="o", label=name)
        memory.plot(minutes, [row["resident_mib"] for row in rows], marker="o", label=name)
    similarity.axhline(0.9, ls=":", color="gray", label="target")
    similarity.set_title("speaker similarity to minute 1", fontsize="medium")
    similarity.set_ylim(0.5, 1.01)
    memory.set_title("resident memory in MiB", fontsize="medium")
    memory.set_ylim(bottom=0)
    for axes in (similarity, memory):
        axes.set_xlabel("minute of speech")
        axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["speech"],
        arguments,
        ("--model", {"type": Path, "help": "checkpoint; its first voice, if any, is the prompt"}),
        ("--text", {"type": Path, "help": "text file, read over and over (default: sentences of our own)"}),
        ("--minutes", {"type": int, "default": 10, "help": "whole minutes of speech (default: %(default)s)"}),
        ("--seed", {"type": int, "default": 0, "help": "(default: %(default)s)"}),
        ("--speaker-model", {"default": "resemblyzer", "help": "who compares speakers (default: %(default)s)"}),
    )
    if options.model is None and not options.quick:
        print("error: random weights have no voice: name a checkpoint with --model, or take --quick", file=sys.stderr)
        return 2
    options.preset, options.prompt_seconds = "tiny", 1.0
    rows = measure(options)
    print(f"{'minute':>6}{'similarity':>12}{'memory':>13}{'real-time factor':>18}")
    for row in rows:
        similarity = row.get("similarity_to_minute_1", float("nan"))
        print(f"{row['minute']:>6}{similarity:>12.3f}{row['resident_mib']:>9.1f} MiB{row['real_time_factor']:>18.3f}")
    name = "tiny" if options.model is None else options.model.resolve().name
    settings = {"seconds_per_minute": QUICK_MINUTE if options.quick else MINUTE, "threads": options.threads[0]}
    report(options.output, "long_form", name, settings, rows, judge, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
