"""Frames per second of training, against the paper's decoder-only baseline and one of equal size.

    python examples/benchmarks/training_throughput.py
    python examples/benchmarks/training_throughput.py --lengths 2048 --frames-per-step 131072 --no-compile
    python examples/benchmarks/training_throughput.py --quick

A step is forward, backward and a fused AdamW step over a batch of fixed size, without padding; on CUDA in bfloat16 by
autocast, compiled, 65,536 frames. Systems are measured in alternation in one process. Beside whole rows, Small-E is
measured on packed ones, in which utterances follow each other. The share of the device's peak (mfu) is shown where
that is known, or told with --peak-tflops. Targets are those of one H200, and are held against CUDA only. Weights are
random. Writes training_throughput.json and, where matplotlib is installed, training_throughput.png.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import Results, Target, alternate, medians, parse, report
from rivals import DecoderOnlyForSpeechGeneration, equal_size, num_parameters, random_columns, random_text
from torch import nn

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.fla_kernels import kernels_are_installed
from smalle_hf.training.cpu_memory import keep_freed_memory
from smalle_hf.training.flops import peak_flops, training_flops

OURS, PACKED, PAPER, EQUAL = "Small-E", "Small-E, packed", "decoder-only, 86M", "decoder-only, equal size"
SYSTEMS = [OURS, PACKED, PAPER, EQUAL]
LENGTHS, QUICK_LENGTHS = [1024, 2048, 4096, 8192, 16384], [32, 64]
FRAMES_PER_STEP = {"cuda": 65536, "cpu": 16384}
QUICK_FRAMES_PER_STEP = 128
PER_PACKED_ROW = 4
"""Utterances in a packed row, at most."""


def build(is_quick: bool) -> dict[str, nn.Module]:
    """The models, by the names of their systems."""
    config = SmallEConfig.from_preset("tiny" if is_quick else "small-e-64m")
    small_e, equal = SmallEForSpeechGeneration(config), DecoderOnlyForSpeechGeneration(config, equal_size(config))
    paper = equal if is_quick else DecoderOnlyForSpeechGeneration.from_preset("86m", config)
    return {OURS: small_e, PACKED: small_e, PAPER: paper, EQUAL: equal}


def random_batch(frames: int, num_utterances: int, is_packed: bool, config: SmallEConfig) -> dict[str, torch.Tensor]:
    """Utterances of so many columns with their texts, in rows of one or of several."""
    text = random_text(frames, config, num_utterances)
    columns, labels = (random_columns(frames, config, num_utterances) for _ in range(2))
    batch = {"input_ids": text, "decoder_input_ids": columns, "labels": labels}
    if is_packed:
        per_row = max(count for count in range(1, PER_PACKED_ROW + 1) if num_utterances % count == 0)
        segments = torch.arange(1, num_utterances + 1)[:, None] % per_row
        batch["segment_ids"] = segments.expand_as(text)
        batch["decoder_segment_ids"] = segments.expand(-1, frames)
        batch = {name: value.unflatten(0, (-1, per_row)).flatten(1, 2) for name, value in batch.items()}
    return batch


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], device: torch.device
) -> Callable[[], None]:
    """A function that trains on the batch once, and waits until that is done."""
    batch = {name: value.to(device) for name, value in batch.items()}

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def compile_models(models: dict[str, nn.Module]) -> None:
    """Compiles what has no loop over chunks: Small-E needs the kernels for that."""
    small_e: Any = models[OURS]
    if kernels_are_installed():
        small_e.model.compile()
    baselines: list[Any] = [models[PAPER], models[EQUAL]]
    for baseline in baselines:
        baseline.transformer.compile()


def step_flops(model: Any, batch: dict[str, torch.Tensor], frames: int, num_utterances: int) -> float:
    """Operations of a step; those of a transformer are 6 per weight and position, embeddings left out, and 6 D per
    layer and pair of positions of which one reads the other (each reads those before it)."""
    tokens = batch["input_ids"].numel() / num_utterances
    if isinstance(model, SmallEForSpeechGeneration):
        sizes = frames, tokens, tokens**2, frames * tokens
        return training_flops(model.config, *(num_utterances * size for size in sizes))
    llama, positions = model.transformer.config, frames + tokens
    weights = num_parameters([model.transformer.layers])
    heads = num_parameters([model.lm_heads])
    attention = 6 * llama.num_hidden_layers * llama.hidden_size * positions**2
    return num_utterances * (6 * weights * positions + 6 * heads * frames + attention)


def measure(options: argparse.Namespace, device: torch.device) -> list[Results]:
    """Frames per second of every system at every length."""
    keep_freed_memory()
    models = {name: model.train().to(device) for name, model in build(options.quick).items()}
    if options.compile:
        compile_models(models)
    optimizers = {id(model): torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in models.values()}
    config: Any = models[OURS].config
    peak = peak_flops(device, options.peak_tflops)
    rows: list[Results] = []
    for frames in options.lengths:
        num_utterances = max(options.frames_per_step // frames, 1)
        batches = {name: random_batch(frames, num_utterances, name == PACKED, config) for name in options.systems}
        steps = {
            name: training_step(models[name], optimizers[id(models[name])], batch, device)
            for name, batch in batches.items()
        }
        for name, seconds in medians(alternate(steps, options.repeats, warm_ups=options.warm_ups)).items():
            row = {
                "system": name,
                "parameters": num_parameters([models[name]]),
                "frames": frames,
                "frames_per_step": num_utterances * frames,
                "frames_per_second": num_utterances * frames / seconds,
            }
            if peak is not None:
                row["mfu"] = step_flops(models[name], batches[name], frames, num_utterances) / (seconds * peak)
            rows.append(row)
    return rows


def speeds_at(rows: Sequence[Results], frames: int) -> dict[str, float]:
    """Frames per second at a length, by system."""
    return {row["system"]: row["frames_per_second"] for row in rows if row["frames"] == frames}


def show(rows: Sequence[Results]) -> None:
    """Prints speeds, and how many times as fast as the baselines Small-E is."""
    print(f"{'system':<26}{'frames':>8}{'frames/s':>12}{'mfu':>8}{'Small-E over it':>17}")
    for row in rows:
        ours = speeds_at(rows, row["frames"]).get(OURS)
        mfu = f"{row['mfu']:.1%}" if "mfu" in row else "-"
        ratio = "-" if ours is None else f"{ours / row['frames_per_second']:.2f}x"
        print(f"{row['system']:<26}{row['frames']:>8}{row['frames_per_second']:>12.0f}{mfu:>8}{ratio:>17}")


def judge(rows: Sequence[Results]) -> list[Target]:
    """The targets, at 2,048 frames."""
    speeds = speeds_at(rows, 2048)
    targets = []
    if OURS in speeds:
        targets.append(Target("frames per second of training at 2048 frames", speeds[OURS], 600_000, at_least=True))
    if {OURS, PAPER} <= set(speeds):
        ratio = speeds[OURS] / speeds[PAPER]
        targets.append(Target("training at 2048 frames, Small-E over the 86M baseline", ratio, 1.62, at_least=True))
    return targets


def draw(figure: Any, phases: Results) -> None:
    """Frames per second over length."""
    axes, rows = figure.subplots(), phases["training"]["rows"]
    for name in dict.fromkeys(row["system"] for row in rows):
        own = sorted((row["frames"], row["frames_per_second"]) for row in rows if row["system"] == name)
        axes.plot(*zip(*own, strict=True), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("frames of an utterance")
    axes.set_ylabel("frames per second")
    axes.set_title(f"training on {phases['training']['device']}")
    axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["training"],
        arguments,
        ("--systems", {"nargs": "+", "choices": SYSTEMS, "default": SYSTEMS, "help": "(default: all)"}),
        ("--lengths", {"nargs": "+", "type": int, "help": "frames of an utterance"}),
        ("--frames-per-step", {"type": int, "help": "frames of a batch, in whole utterances"}),
        ("--compile", {"action": argparse.BooleanOptionalAction, "help": "compile the models (default: on CUDA)"}),
        ("--peak-tflops", {"type": float, "help": "10^12 operations per second that the device can do"}),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    is_cuda = device.type == "cuda"
    torch.set_num_threads(options.threads[-1])
    options.lengths = options.lengths or (QUICK_LENGTHS if options.quick else LENGTHS)
    per_step = QUICK_FRAMES_PER_STEP if options.quick else FRAMES_PER_STEP[device.type]
    options.frames_per_step = options.frames_per_step or per_step
    options.compile = is_cuda if options.compile is None else options.compile
    options.repeats = options.repeats or (1 if options.quick else 10 if is_cuda else 3)
    options.warm_ups = 5 if is_cuda else 1
    rows = measure(options, device)
    show(rows)
    settings = {
        "device": torch.cuda.get_device_name(device) if is_cuda else "CPU",
        "threads": options.threads[-1],
        "compile": options.compile,
        "kernels": is_cuda and kernels_are_installed(),
        "is_quick": options.quick,
    }
    report(options.output, "training_throughput", "training", settings, rows, judge if is_cuda else None, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
