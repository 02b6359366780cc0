"""Text to sound on a CPU: Small-E against Pocket TTS and the decoder-only baseline of equal size.

    python examples/benchmarks/cpu_generation.py
    python examples/benchmarks/cpu_generation.py --batch-sizes 1 --threads 1 2 --systems Small-E "Pocket TTS"
    python examples/benchmarks/cpu_generation.py --quick

Real-time factor: seconds of computing per second of audio, from text ids to samples at 24 kHz, codec included.
Small-E (in PyTorch, and as ONNX graphs with weights in 8 bits) and the baseline speak with the Vocos decoder for
EnCodec. Pocket TTS speaks with its own, at the default configuration of Transformers, and has no voice prompt to read.
All run in alternation in one process. Writes cpu_generation.json and, where matplotlib is installed,
cpu_generation.png; what was measured earlier of other systems, batches and threads is kept.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from comparison import Results, Target, alternate, medians, parse, report
from rivals import DecoderOnly, PocketTTS, SmallE, SmallEOnnx, vocos_config

from smalle_hf import SmallEConfig

OURS, OURS_INT8, POCKET, BASELINE = "Small-E", "Small-E int8", "Pocket TTS", "decoder-only"
SYSTEMS = (OURS, OURS_INT8, POCKET, BASELINE)
SAMPLING_RATE = 24_000
SECONDS, QUICK_SECONDS = 2.0, 0.4
"""Length of the utterances."""


def build(options: argparse.Namespace, onnx_folder: Path) -> dict[str, Any]:
    """The systems that are there, by name."""
    config = SmallEConfig.from_preset("tiny" if options.quick else "small-e-64m", codec_config=vocos_config())
    makers: dict[str, Callable[[], Any]] = {
        OURS: lambda: SmallE(config),
        OURS_INT8: lambda: SmallEOnnx(config, onnx_folder),
        POCKET: lambda: PocketTTS(is_small=options.quick),
        BASELINE: lambda: DecoderOnly(config),
    }
    systems = {}
    for name in options.systems:
        try:
            systems[name] = makers[name]()
        except ImportError as error:
            print(f"{name} is left out. {error}", file=sys.stderr)
    return systems


def measure(systems: dict[str, Any], options: argparse.Namespace, threads: int) -> list[Results]:
    """Real-time factors of every system and batch size with so many threads."""
    for system in systems.values():
        system.use_threads(threads)
    duration = QUICK_SECONDS if options.quick else SECONDS
    rows = []
    for batch_size in options.batch_sizes:
        spoken: dict[str, float] = {}

        def speak(name: str, batch_size: int = batch_size, spoken: dict[str, float] = spoken) -> None:
            spoken[name] = math.prod(systems[name].speak(duration, batch_size).shape) / SAMPLING_RATE

        steps = {name: (lambda name=name: speak(name)) for name in systems}
        for name, elapsed in medians(alternate(steps, options.repeats)).items():
            rows.append(
                {
                    "system": name,
                    "parameters": systems[name].num_parameters,
                    "threads": threads,
                    "batch_size": batch_size,
                    "real_time_factor": elapsed / spoken[name],  # of all rows together
                }
            )
    return rows


def judge(rows: Sequence[Results]) -> list[Target]:
    """What has been measured against the targets, each system with the number of threads that serves it best."""
    best: dict[tuple[str, int], float] = {}
    for row in rows:
        key = row["system"], row["batch_size"]
        best[key] = min(row["real_time_factor"], best.get(key, math.inf))
    targets = []
    for name in (OURS, OURS_INT8):
        if (name, 1) in best:
            targets.append(Target(f"real-time factor of {name}, batch 1", best[name, 1], 0.5))
        if {(name, 1), (POCKET, 1)} <= best.keys():
            ratio = best[name, 1] / best[POCKET, 1]
            targets.append(Target(f"real-time factor of {name} over that of {POCKET}, batch 1", ratio, 1.0))
        if {(name, 1), (name, 8)} <= best.keys():
            ratio = best[name, 1] / best[name, 8]
            targets.append(Target(f"speed of {name} at batch 8 over that at batch 1", ratio, 4.0, at_least=True))
    return targets


def print_rows(rows: Sequence[Results]) -> None:
    """Prints a table."""
    print(f"{'system':<16}{'threads':>8}{'batch':>7}{'real-time factor':>18}")
    for row in rows:
        print(f"{row['system']:<16}{row['threads']:>8}{row['batch_size']:>7}{row['real_time_factor']:>18.3f}")


def draw(figure: Any, phases: Results) -> None:
    """Bars of the real-time factors, a panel for each batch size."""
    rows = phases["speech"]["rows"]
    batch_sizes = sorted({row["batch_size"] for row in rows})
    threads = sorted({row["threads"] for row in rows})
    names = [name for name in SYSTEMS if any(row["system"] == name for row in rows)]
    height = 0.8 / len(threads)
    for axes, batch_size in zip(figure.subplots(1, len(batch_sizes), squeeze=False)[0], batch_sizes, strict=True):
        for index, count in enumerate(threads):
            mine = [row for row in rows if (row["batch_size"], row["threads"]) == (batch_size, count)]
            places = [names.index(row["system"]) + index * height for row in mine]
            factors = [row["real_time_factor"] for row in mine]
            label = f"{count} thread{'s' if count > 1 else ''}"
            axes.bar_label(axes.barh(places, factors, height=height, label=label), fmt="%.2f", padding=2)
        axes.set_yticks([place + (len(threads) - 1) * height / 2 for place in range(len(names))], names)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(f"real-time factor, batch {batch_size}", fontsize="medium")
        axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["speech"],
        arguments,
        ("--systems", {"nargs": "+", "choices": SYSTEMS, "default": list(SYSTEMS), "help": "(default: all)"}),
        ("--batch-sizes", {"nargs": "+", "type": int, "default": [1, 8], "help": "(default: %(default)s)"}),
        ("--onnx", {"type": Path, "help": "folder of the exported model; it is made if it is missing, and kept"}),
    )
    options.repeats = options.repeats or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as temporary:
        systems = build(options, options.onnx or Path(temporary) / "onnx")
        rows = [row for threads in options.threads for row in measure(systems, options, threads)]
    print_rows(rows)
    settings = {"seconds_of_speech": QUICK_SECONDS if options.quick else SECONDS}
    report(options.output, "cpu_generation", "speech", settings, rows, judge, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
