"""Training cost of the recurrence against causal attention, by length: forward and backward, on one thread.

    python examples/benchmarks/recurrence.py
    python examples/benchmarks/recurrence.py --quick --output outputs/benchmarks

Both run in alternation in one process, and what is printed is the median of the ratios, so a busy machine moves both.
Writes recurrence.json and, where matplotlib is installed, recurrence.png.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import Results, Target, alternate, median_ratio, medians, parse, report
from torch.nn.functional import scaled_dot_product_attention

from smalle_hf.gated_linear_attention import chunked_gated_linear_attention

BATCH, HEADS, WIDTH = 2, 4, 64
LENGTHS = (512, 1024, 2048, 4096, 8192)
QUICK_LENGTHS = (512, 1024)
WANTED = {512: 1.9, 1024: 2.6, 2048: 4.3, 4096: 6.2, 8192: 10.9}
"""How many times as fast as attention the recurrence shall be."""


def steps_of(length: int) -> dict[str, Callable[[], object]]:
    """Forward and backward of both at one length."""
    q, k, v = (torch.randn(BATCH, length, HEADS, WIDTH, requires_grad=True) for _ in range(3))
    log_decay = (-0.1 * torch.rand(BATCH, length, HEADS, WIDTH)).requires_grad_()

    def recurrence() -> None:
        chunked_gated_linear_attention(q, k, v, log_decay)[0].sum().backward()

    def attention() -> None:
        queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
        scaled_dot_product_attention(queries, keys, values, is_causal=True).sum().backward()

    return {"recurrence": recurrence, "attention": attention}


def measure(length: int, repeats: int) -> Results:
    """Median seconds of both at one length, and the median of their ratios pair by pair."""
    times = alternate(steps_of(length), repeats)
    seconds = {f"{name}_seconds": value for name, value in medians(times).items()}
    return {"frames": length, **seconds, "ratio": median_ratio(times["attention"], times["recurrence"])}


def judge(rows: Sequence[Results]) -> list[Target]:
    """Each length against what is wanted of it."""
    return [
        Target(f"speed of the recurrence over that of attention at {row['frames']} frames", row["ratio"], wanted, True)
        for row in rows
        if (wanted := WANTED.get(row["frames"]))
    ]


def draw(figure: Any, phases: Results) -> None:
    """Time per frame over length, log-log."""
    axes, rows = figure.add_subplot(), phases["training"]["rows"]
    for name in ("recurrence", "attention"):
        microseconds = [1e6 * row[f"{name}_seconds"] / row["frames"] / BATCH for row in rows]
        axes.loglog([row["frames"] for row in rows], microseconds, marker="o", base=2, label=name)
    axes.set_xlabel("frames")
    axes.set_ylabel("µs per frame, forward and backward")
    axes.legend()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(__doc__ or "", ["training"], arguments)
    torch.set_num_threads(1)
    lengths, repeats = (QUICK_LENGTHS, 3) if options.quick else (LENGTHS, 7)
    rows = [measure(length, options.repeats or repeats) for length in lengths]
    print(f"B{BATCH} H{HEADS} d{WIDTH}, one thread, forward + backward")
    print(f"{'frames':>8} {'recurrence':>12} {'attention':>12} {'ratio':>7}")
    for row in rows:
        times = f"{row['recurrence_seconds'] * 1e3:9.1f} ms {row['attention_seconds'] * 1e3:9.1f} ms"
        print(f"{row['frames']:8} {times} {row['ratio']:6.1f}x")
    settings = {"batch_size": BATCH, "heads": HEADS, "width": WIDTH, "threads": 1}
    report(options.output, "recurrence", "training", settings, rows, judge, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
