"""How soon speech is heard and whether it keeps coming: streams of different chunk sizes against whole utterances.

    python examples/benchmarks/streaming.py --model outputs/my-voice
    python examples/benchmarks/streaming.py --model outputs/my-voice-onnx
    python examples/benchmarks/streaming.py --preset small-e-64m --threads 1 2
    python examples/benchmarks/streaming.py --quick

First audio: milliseconds from the text, a string, to the first samples, with the model loaded; voice prompt and text
encoder included. Real-time factor: seconds of computing per second of audio, of the whole stream and of its slowest
chunk behind the first. Of every chunk size and of `generate` the same words are spoken in alternation in one process.
A --model that `smalle export` wrote speaks with ONNX Runtime and remembers what it computed of the voice prompt: its
first audio is that of a voice which has spoken before. Without --model the weights are random, of the sizes of
--preset with the package's codec: speed does not depend on them.
Writes streaming.json and, where matplotlib is installed, streaming.png.
"""

import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import Results, Target, alternate, parse, report
from transformers import AutoConfig, AutoModel

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.codecs import codec_path
from smalle_hf.onnx import SmallEOnnxModel, SmallEOnnxProcessor
from smalle_hf.onnx.configuration import CONFIG_NAME
from smalle_hf.voice_files import list_voices, load_voice, load_voice_arrays

TEXT = "The boat sailed along the coast, and nobody on the shore could tell where it went."
CHUNKS_MS, QUICK_CHUNKS_MS = (20.0, 50.0, 100.0, 200.0, 500.0), (50.0, 200.0)
SECONDS, QUICK_SECONDS = 4.0, 1.0
"""Length of the utterances: weights that have not learnt to end must not decide it."""

LATENCY_TARGETS = {"small": 150.0, "large": 300.0}
"""Milliseconds to the first audio, of models below and above LARGE parameters."""
LARGE = 30_000_000
WHOLE = "whole"


def build(options: Any, threads: int = 1) -> tuple[Any, Any, dict[str, Any]]:
    """Model, processor and voice prompt; exported models compute with so many threads."""
    if options.model is not None and (options.model / CONFIG_NAME).is_file():
        return build_exported(options, threads)
    if options.model is not None:
        model = SmallEForSpeechGeneration.from_pretrained(options.model, dtype=torch.float32).eval()
        voices = list_voices(options.model)
        voice = dict(load_voice(options.model, voices[0])) if voices else {}
        return model, SmallEProcessor.from_pretrained(options.model), voice
    codec = AutoConfig.from_pretrained(codec_path())
    preset = "tiny" if options.quick else options.preset
    config = SmallEConfig.from_preset(
        preset, codec_config=codec, num_codebooks=codec.num_codebooks, codebook_size=codec.codebook_size
    )
    model = SmallEForSpeechGeneration(config).eval()
    model.codec_model = AutoModel.from_pretrained(codec_path()).eval()
    processor = SmallEProcessor.from_characters(config=config)
    prompt = torch.randint(
        codec.codebook_size, (round(options.prompt_seconds * config.frame_rate), config.num_codebooks)
    )
    voice = {"audio_prompt_codes": prompt, "audio_prompt_text": "What was said before."} if len(prompt) else {}
    return model, processor, voice


def build_exported(options: Any, threads: int) -> tuple[SmallEOnnxModel, SmallEOnnxProcessor, dict[str, Any]]:
    """The same of an exported folder; the voice prompt is random if there is no voice in it."""
    model = SmallEOnnxModel.from_pretrained(options.model, threads)
    config, voices = model.config, list_voices(options.model)
    size = round(options.prompt_seconds * config.frame_rate), config.num_codebooks
    voice: dict[str, Any] = {}
    if voices:
        voice = load_voice_arrays(options.model, voices[0])
    elif size[0]:
        prompt = np.random.default_rng(0).integers(0, config.codebook_size, size)
        voice = {"audio_prompt_codes": prompt, "audio_prompt_text": "What was said before."}
    return model, SmallEOnnxProcessor.from_pretrained(options.model), voice


def count_parameters(model: Any) -> int:
    """Parameters of a model of either kind."""
    if isinstance(model, SmallEOnnxModel):
        return model.config.num_parameters
    return sum(parameter.numel() for parameter in model.parameters())


def chunk_times(stream: Iterator[Any], started: float) -> list[tuple[float, int]]:
    """When each chunk came, in seconds, and its samples."""
    return [(time.perf_counter() - started, chunk.audio.shape[1]) for chunk in stream if chunk.audio.shape[1]]


def measure(options: Any, threads: int) -> tuple[list[Results], int]:
    """First audio and real-time factors for every chunk size, and the number of parameters of the model."""
    torch.set_num_threads(threads)
    model, processor, voice = build(options, threads)
    rate, frames = model.config.sampling_rate, options.seconds * model.config.frame_rate
    limits: dict[str, Any] = {"max_new_tokens": int(frames), "seed": 0}
    if not isinstance(model, SmallEOnnxModel):
        limits["min_new_tokens"] = int(frames)
    spoken: list[float] = []
    streams: dict[float, list[list[tuple[float, int]]]] = {chunk_ms: [] for chunk_ms in options.chunk_ms}

    def stream(chunk_ms: float) -> None:
        started = time.perf_counter()
        chunks = model.stream(**processor(TEXT, **voice), **limits, chunk_ms=chunk_ms)
        streams[chunk_ms].append(chunk_times(chunks, started))

    def generate() -> None:
        output = model.generate(**processor(TEXT, **voice), **limits)
        spoken.append(int(output.audio_lengths[0]) / rate)

    steps: dict[str, Callable[[], object]] = {str(size): (lambda size=size: stream(size)) for size in options.chunk_ms}
    steps[WHOLE] = generate
    times = alternate(steps, options.repeats)
    whole = statistics.median(times[WHOLE]) / spoken[0]
    shared = {"threads": threads, "generate_real_time_factor": whole}
    rows = [{"chunk_ms": f"{size:g}", **summary(streams[size][1:], rate), **shared} for size in options.chunk_ms]
    return rows, count_parameters(model)


def summary(streams: Sequence[Sequence[tuple[float, int]]], rate: int) -> Results:
    """Medians over the measured streams."""
    firsts, factors, slowest = [], [], []
    for chunks in streams:
        firsts.append(chunks[0][0] * 1e3)
        factors.append(chunks[-1][0] / (sum(samples for _, samples in chunks) / rate))
        gaps = [(later - earlier) / (samples / rate) for (earlier, _), (later, samples) in itertools.pairwise(chunks)]
        slowest.append(max(gaps, default=math.nan))
    return {
        "first_audio_ms": statistics.median(firsts),
        "real_time_factor": statistics.median(factors),
        "slowest_chunk": statistics.median(slowest),
    }


def judge_for(num_parameters: int) -> Callable[[Sequence[Results]], list[Target]]:
    """What is wanted of a model of this size, at the chunk size and number of threads that serve it best."""
    limit = LATENCY_TARGETS["large" if num_parameters > LARGE else "small"]

    def judge(rows: Sequence[Results]) -> list[Target]:
        best = min(rows, key=lambda row: row["first_audio_ms"])
        usual = min(
            (row for row in rows if row["chunk_ms"] == "100"), key=lambda row: row["first_audio_ms"], default=best
        )
        return [
            Target(f"first audio in milliseconds, chunks of {usual['chunk_ms']} ms", usual["first_audio_ms"], limit),
            Target(f"real-time factor of the slowest chunk of {usual['chunk_ms']} ms", usual["slowest_chunk"], 1.0),
        ]

    return judge


def print_rows(rows: Sequence[Results]) -> None:
    """Prints a table."""
    print(
        f"{'threads':>7}{'chunk':>9}{'first audio':>14}{'real-time factor':>18}{'slowest chunk':>15}{'generate':>10}"
    )
    for row in rows:
        print(
            f"{row['threads']:>7}{row['chunk_ms']:>6} ms{row['first_audio_ms']:>11.0f} ms"
            f"{row['real_time_factor']:>18.3f}{row['slowest_chunk']:>15.3f}{row['generate_real_time_factor']:>10.3f}"
        )


def draw(figure: Any, phases: Results) -> None:
    """First audio and real-time factors over the chunk size."""
    latency, factor = figure.subplots(1, 2)
    for name, phase in phases.items():
        for threads in sorted({row["threads"] for row in phase["rows"]}):
            rows = [row for row in phase["rows"] if row["threads"] == threads]
            rows.sort(key=lambda row: float(row["chunk_ms"]))
            sizes = [float(row["chunk_ms"]) for row in rows]
            label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
            latency.plot(sizes, [row["first_audio_ms"] for row in rows], marker="o", label=label)
            (line,) = factor.plot(
                sizes, [row["real_time_factor"] for row in rows], marker="o", label=f"{label}: stream"
            )
            factor.plot(
                sizes, [row["slowest_chunk"] for row in rows], ":", color=line.get_color(), label="slowest chunk"
            )
            factor.axhline(rows[0]["generate_real_time_factor"], ls="--", color=line.get_color(), label="generate")
    for axes, title in ((latency, "first audio in ms"), (factor, "real-time factor")):
        axes.set_xlabel("chunk in ms")
        axes.set_xscale("log")
        sizes = sorted({float(row["chunk_ms"]) for phase in phases.values() for row in phase["rows"]})
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize="medium")
        axes.legend(fontsize="x-small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["stream"],
        arguments,
        ("--model", {"type": Path, "help": "checkpoint or exported folder; its first voice, if any, is the prompt"}),
        ("--preset", {"default": "small-e-64m", "help": "sizes without --model (default: %(default)s)"}),
        ("--prompt-seconds", {"type": float, "default": 3.0, "help": "voice prompt without --model (default: 3)"}),
        ("--chunk-ms", {"type": float, "nargs": "+", "help": f"(default: {' '.join(f'{c:g}' for c in CHUNKS_MS)})"}),
    )
    options.repeats = options.repeats or (1 if options.quick else 5)
    options.chunk_ms = options.chunk_ms or (QUICK_CHUNKS_MS if options.quick else CHUNKS_MS)
    options.seconds = QUICK_SECONDS if options.quick else SECONDS
    rows, num_parameters = [], 0
    for threads in options.threads:
        measured, num_parameters = measure(options, threads)
        rows += measured
    print_rows(rows)
    name = "tiny" if options.quick else options.preset
    name = name if options.model is None else options.model.resolve().name
    settings = {"parameters": num_parameters, "seconds_of_speech": options.seconds}
    report(options.output, "streaming", name, settings, rows, judge_for(num_parameters), draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
