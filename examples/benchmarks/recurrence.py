"""Training cost of the recurrence against causal attention, by length: forward and backward, on one thread.

    python examples/benchmarks/recurrence.py
    python examples/benchmarks/recurrence.py --quick --output outputs/benchmarks

The recurrence also with utterances packed behind each other, and with decays down to the strongest one, which take a
longer way. All run in alternation in one process, and ratios are medians of pairs, so a busy machine moves both. All
keep the memory that they free, as examples/train.py does on a CPU.
Writes recurrence.json and, where matplotlib is installed, recurrence.png.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import Results, Target, alternate, median_ratio, medians, parse, report
from torch.nn.functional import scaled_dot_product_attention

from smalle_hf.gated_linear_attention import chunked_gated_linear_attention
from smalle_hf.training.cpu_memory import keep_freed_memory

BATCH, HEADS, WIDTH = 2, 4, 64
LENGTHS = (512, 1024, 2048, 4096, 8192)
QUICK_LENGTHS = (512, 1024)
WANTED = {512: 1.9, 1024: 2.6, 2048: 4.3, 4096: 6.2, 8192: 10.9}
"""How many times as fast as attention the recurrence shall be."""

UTTERANCE = 300
"""Frames of each of the utterances in packed rows."""

NAMES = ("recurrence", "packed", "strong_decays", "attention")


def steps_of(length: int) -> dict[str, Callable[[], object]]:
    """Forward and backward of everything at one length."""
    q, k, v = inputs = [torch.randn(BATCH, length, HEADS, WIDTH, requires_grad=True) for _ in range(3)]
    gradient = torch.randn_like(v)
    mild, strong = ((-x * torch.rand_like(v)).requires_grad_() for x in (0.1, 5.0))
    resets = (torch.arange(length) % UTTERANCE == 0).expand(BATCH, -1)

    def recurrence(log_decay: torch.Tensor, resets: torch.Tensor | None = None) -> None:
        out, _ = chunked_gated_linear_attention(q, k, v, log_decay, resets=resets)
        torch.autograd.grad(out, [*inputs, log_decay], gradient)

    def attention() -> None:
        queries, keys, values = (x.transpose(1, 2) for x in inputs)
        out = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        torch.autograd.grad(out, inputs, gradient.transpose(1, 2))

    return {
        "recurrence": lambda: recurrence(mild),
        "packed": lambda: recurrence(mild, resets),
        "strong_decays": lambda: recurrence(strong),
        "attention": attention,
    }


def measure(length: int, repeats: int) -> Results:
    """Median seconds of everything at one length, and medians of ratios, measurement by measurement."""
    times = alternate(steps_of(length), repeats)
    seconds = {f"{name}_seconds": value for name, value in medians(times).items()}
    return {
        "frames": length,
        **seconds,
        "ratio": median_ratio(times["attention"], times["recurrence"]),
        "packed_over_whole": median_ratio(times["packed"], times["recurrence"]),
    }


def judge(rows: Sequence[Results]) -> list[Target]:
    """Each length against what is wanted of it."""
    speeds = [
        Target(f"speed of the recurrence over that of attention at {row['frames']} frames", row["ratio"], wanted, True)
        for row in rows
        if (wanted := WANTED.get(row["frames"]))
    ]
    packed = max(row["packed_over_whole"] for row in rows)
    return [*speeds, Target("time of packed rows over that of whole ones, at worst", packed, 1.1)]


def draw(figure: Any, phases: Results) -> None:
    """Time per frame over length, log-log."""
    axes, rows = figure.add_subplot(), phases["training"]["rows"]
    for name in NAMES:
        microseconds = [1e6 * row[f"{name}_seconds"] / row["frames"] / BATCH for row in rows]
        axes.loglog([row["frames"] for row in rows], microseconds, marker="o", base=2, label=name.replace("_", " "))
    axes.set_xlabel("frames")
    axes.set_ylabel("µs per frame, forward and backward")
    axes.legend()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(__doc__ or "", ["training"], arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    lengths, repeats = (QUICK_LENGTHS, 3) if options.quick else (LENGTHS, 7)
    rows = [measure(length, options.repeats or repeats) for length in lengths]
    print(f"B{BATCH} H{HEADS} d{WIDTH}, one thread, forward + backward")
    print(f"{'frames':>8}" + "".join(f"{name.replace('_', ' '):>17}" for name in NAMES) + f"{'ratio':>8}")
    for row in rows:
        times = "".join(f"{row[f'{name}_seconds'] * 1e3:14.1f} ms" for name in NAMES)
        print(f"{row['frames']:8}{times}{row['ratio']:7.1f}x")
    settings = {"batch_size": BATCH, "heads": HEADS, "width": WIDTH, "threads": 1}
    report(options.output, "recurrence", "training", settings, rows, judge, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
