"""Training cost of the recurrence against causal attention, by length: forward and backward, on one thread.

    python examples/benchmarks/recurrence.py
    python examples/benchmarks/recurrence.py --quick --output outputs/benchmarks

Both run in alternation in one process, and what is printed is the median of the ratios, so a busy machine moves both.
Writes recurrence.json and, where matplotlib is installed, recurrence.png.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from smalle_hf.gated_linear_attention import chunked_gated_linear_attention

BATCH, HEADS, WIDTH = 2, 4, 64
LENGTHS = (512, 1024, 2048, 4096, 8192)
QUICK_LENGTHS = (512, 1024, 2048)


def seconds(step: Callable[[], torch.Tensor]) -> float:
    """Time of one forward and backward pass."""
    start = time.perf_counter()
    step().sum().backward()
    return time.perf_counter() - start


def measure(length: int, repeats: int) -> dict[str, float]:
    """Median seconds of both at one length, and the median of their ratios pair by pair."""
    q, k, v = (torch.randn(BATCH, length, HEADS, WIDTH, requires_grad=True) for _ in range(3))
    log_decay = (-0.1 * torch.rand(BATCH, length, HEADS, WIDTH)).requires_grad_()

    def recurrence() -> torch.Tensor:
        return chunked_gated_linear_attention(q, k, v, log_decay)[0]

    def attention() -> torch.Tensor:
        return scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)

    seconds(recurrence), seconds(attention)  # the first passes allocate
    pairs = [(seconds(recurrence), seconds(attention)) for _ in range(repeats)]
    return {
        "frames": length,
        "recurrence_seconds": statistics.median(pair[0] for pair in pairs),
        "attention_seconds": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def draw(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Time per frame over length, log-log."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in ("recurrence", "attention"):
        microseconds = [1e6 * row[f"{name}_seconds"] / row["frames"] / BATCH for row in rows]
        axes.loglog([row["frames"] for row in rows], microseconds, marker="o", base=2, label=name)
    axes.set_xlabel("frames")
    axes.set_ylabel("microseconds per frame, forward and backward")
    axes.legend()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter lengths, fewer repeats")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks"), help="folder (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lengths, repeats = (QUICK_LENGTHS, 3) if options.quick else (LENGTHS, 7)
    rows = [measure(length, repeats) for length in tqdm(lengths, unit="length", file=sys.stderr, disable=None)]

    print(f"B{BATCH} H{HEADS} d{WIDTH}, one thread, forward + backward")
    print(f"{'frames':>8} {'recurrence':>12} {'attention':>12} {'ratio':>7}")
    for row in rows:
        times = f"{row['recurrence_seconds'] * 1e3:9.1f} ms {row['attention_seconds'] * 1e3:9.1f} ms"
        print(f"{row['frames']:8.0f} {times} {row['ratio']:6.1f}x")
    options.output.mkdir(parents=True, exist_ok=True)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    path = options.output / "recurrence.json"
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    try:
        draw(rows, path.with_suffix(".png"))
    except ImportError:
        print("matplotlib is not installed: no plot", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
