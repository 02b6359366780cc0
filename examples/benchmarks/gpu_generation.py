"""Generation on a GPU: how many times faster than real time, with the step replayed as a CUDA graph and without.

    python examples/benchmarks/gpu_generation.py
    python examples/benchmarks/gpu_generation.py --batch-sizes 1 16 64 256 --seconds 20 --dtype float32
    python examples/benchmarks/gpu_generation.py --quick

Codes of the 64M model are generated, in bfloat16 on CUDA; a codec is not part of it. A multiple of real time is that
of all streams of a batch together. Memory is what a generation needs at its peak beside the model, per stream: on
CUDA as PyTorch counts it. On a CPU there is no graph, and no target. Weights are random: speed does not depend on
them. Writes gpu_generation.json and, where matplotlib is installed, gpu_generation.png.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import Results, Target, alternate, forget_peak_memory, medians, parse, peak_memory, report
from rivals import random_text

from smalle_hf import SmallECache, SmallEConfig, SmallEForSpeechGeneration

WITH, WITHOUT = "CUDA graph", "no graph"
BATCH_SIZES, QUICK_BATCH_SIZES = [1, 256], [1, 4]
SECONDS, QUICK_SECONDS = 10.0, 0.2
TARGETS = {1: 25, 256: 2000}
"""Multiples of real time by batch size, on one H200."""


def generation(
    model: SmallEForSpeechGeneration, batch_size: int, num_frames: int, has_graph: bool
) -> Callable[[], None]:
    """A function that generates so many frames of so many streams, and waits for them."""
    text = random_text(num_frames, model.config, batch_size).to(model.device)
    limits = {"max_new_tokens": num_frames, "min_new_tokens": num_frames}

    def generate() -> None:
        model.generate(text, disable_compile=not has_graph, **limits)
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return generate


def memory_of(step: Callable[[], None], device: torch.device) -> float:
    """MiB that a call needs at its peak beside what is there before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    forget_peak_memory()
    memory = peak_memory()
    step()
    return peak_memory() - memory


def measure(options: argparse.Namespace, device: torch.device) -> list[Results]:
    """Multiples of real time and memory of every batch size, with and without the graph."""
    torch.manual_seed(0)
    config = SmallEConfig.from_preset("tiny" if options.quick else "small-e-64m")
    model: Any = SmallEForSpeechGeneration(config).eval().to(device, getattr(torch, options.dtype))
    num_frames = max(round(options.seconds * config.frame_rate), 1)
    rows = []
    for batch_size in options.batch_sizes:
        ways = [WITH, WITHOUT] if device.type == "cuda" else [WITHOUT]
        steps = {way: generation(model, batch_size, num_frames, way == WITH) for way in ways}
        # The first one records the graph, and holds its memory from then on.
        memory = {way: memory_of(step, device) for way, step in steps.items()}
        for way, seconds in medians(alternate(steps, options.repeats, warm_ups=1)).items():
            rows.append(
                {
                    "batch_size": batch_size,
                    "step": way,
                    "frames": num_frames,
                    "real_time_multiple": batch_size * num_frames / config.frame_rate / seconds,
                    "step_ms": 1e3 * seconds / (num_frames + config.max_delay),
                    "peak_mib_per_stream": memory[way] / batch_size,
                    "state_mib_per_stream": SmallECache(config).nbytes / 2**20,
                }
            )
    return rows


def show(rows: Sequence[Results]) -> None:
    """Prints a table."""
    print(f"{'batch':>6}  {'step':<12}{'x real time':>13}{'step':>12}{'peak/stream':>14}{'state/stream':>14}")
    for row in rows:
        print(
            f"{row['batch_size']:>6}  {row['step']:<12}{row['real_time_multiple']:>12.1f}x{row['step_ms']:>9.3f} ms"
            f"{row['peak_mib_per_stream']:>10.1f} MiB{row['state_mib_per_stream']:>10.1f} MiB"
        )


def judge(rows: Sequence[Results]) -> list[Target]:
    """The targets, which the graph has to meet."""
    return [
        Target(
            f"times real time, batch {row['batch_size']}",
            row["real_time_multiple"],
            TARGETS[row["batch_size"]],
            at_least=True,
        )
        for row in rows
        if row["step"] == WITH and row["batch_size"] in TARGETS
    ]


def draw(figure: Any, phases: Results) -> None:
    """Bars of the multiples of real time."""
    axes, rows = figure.subplots(), phases["generation"]["rows"]
    labels = [f"batch {row['batch_size']}\n{row['step']}" for row in rows]
    bars = axes.bar(labels, [row["real_time_multiple"] for row in rows])
    axes.bar_label(bars, fmt="%.1f")
    axes.set_yscale("log")
    axes.set_ylabel("times real time, all streams together")
    axes.set_title(f"generation on {phases['generation']['device']}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["generation"],
        arguments,
        ("--batch-sizes", {"nargs": "+", "type": int, "help": f"streams at a time (default: {BATCH_SIZES})"}),
        ("--seconds", {"type": float, "help": f"of every stream (default: {SECONDS})"}),
        ("--dtype", {"choices": ["bfloat16", "float32"], "help": "of the weights (default: bfloat16 on CUDA)"}),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_cuda = device.type == "cuda"
    torch.set_num_threads(options.threads[-1])
    options.batch_sizes = options.batch_sizes or (QUICK_BATCH_SIZES if options.quick else BATCH_SIZES)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    options.dtype = options.dtype or ("bfloat16" if is_cuda else "float32")
    options.repeats = options.repeats or (1 if options.quick else 5)
    rows = measure(options, device)
    show(rows)
    settings = {
        "device": torch.cuda.get_device_name(device) if is_cuda else "CPU",
        "threads": options.threads[-1],
        "dtype": options.dtype,
        "is_quick": options.quick,
    }
    report(options.output, "gpu_generation", "generation", settings, rows, judge if is_cuda else None, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
