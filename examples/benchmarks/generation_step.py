"""One step of generate() on a CPU: the forward pass and everything else, and what threads and processes do to it.

    python examples/benchmarks/generation_step.py --threads 1 2
    python examples/benchmarks/generation_step.py --phases processes
    python examples/benchmarks/generation_step.py --quick

Phases:
  step       milliseconds of a step of the 64M model and of a small voice, split into the forward pass and the rest
             (delay pattern, sampling, stopping), and over forward passes alone, one after the other
  processes  milliseconds of a step of the small voice in processes that speak side by side, with threads that wait
             actively (what OpenMP does by default) or passively (OMP_WAIT_POLICY=passive)

Weights are random: speed does not depend on them. Writes generation_step.json and, where matplotlib is installed,
generation_step.png.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from comparison import Results, Target, alternate, medians, parse, report
from rivals import random_columns

from smalle_hf import SmallECache, SmallEConfig, SmallEForSpeechGeneration

VOICE = {
    "hidden_size": 192,
    "num_audio_encoder_layers": 2,
    "num_audio_decoder_layers": 2,
    "num_text_encoder_layers": 3,
    "num_text_encoder_attention_heads": 4,
}
"""The sizes of examples/configs/voice_cpu.yaml."""

BATCH_SIZES = [1, 8]
NUM_TOKENS = 60
NUM_STEPS, QUICK_NUM_STEPS = 60, 5
PROCESSES = [1, 2]
SPEAK = """
import json, sys, torch
from generation_step import build, generation
options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
generate = generation(build(options["is_quick"])["small voice"], 1, options["num_steps"])
generate()
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([generate() for _ in range(options["repeats"])]), flush=True)
"""
"""A process of the second phase."""


def build(is_quick: bool) -> dict[str, SmallEForSpeechGeneration]:
    """The models, by name."""
    torch.manual_seed(0)
    first = (
        {"tiny": SmallEConfig.from_preset("tiny")} if is_quick else {"64M": SmallEConfig.from_preset("small-e-64m")}
    )
    configs = {
        **first,
        "small voice": SmallEConfig.from_preset("small-e-64m", **VOICE),
    }
    return {name: SmallEForSpeechGeneration(config).eval() for name, config in configs.items()}


def generation(model: SmallEForSpeechGeneration, batch_size: int, num_steps: int) -> Callable[[], dict[str, float]]:
    """A function that generates so many columns and returns the milliseconds of a step, and of its forward pass."""
    text = torch.randint(3, model.config.vocab_size, (batch_size, NUM_TOKENS))
    num_frames = num_steps - model.config.max_delay

    def generate() -> dict[str, float]:
        begins: list[float] = []
        ends: list[float] = []
        hooks = [
            model.register_forward_pre_hook(lambda *_: begins.append(time.perf_counter())),
            model.register_forward_hook(lambda *_: ends.append(time.perf_counter())),
        ]
        model.generate(text, seed=0, max_new_tokens=num_frames, min_new_tokens=num_frames)
        for hook in hooks:
            hook.remove()
        forwards = [end - begin for begin, end in zip(begins, ends, strict=True)][1:]
        return {
            "step": 1e3 * (ends[-1] - ends[0]) / len(forwards),  # without the first one, which comes after the set-up
            "forward": 1e3 * sum(forwards) / len(forwards),
        }

    return generate


def forward_passes(model: SmallEForSpeechGeneration, batch_size: int, num_steps: int) -> Callable[[], None]:
    """A function that runs so many forward passes of one column, and nothing else."""
    text = torch.randint(3, model.config.vocab_size, (batch_size, NUM_TOKENS))
    column = random_columns(1, model.config, batch_size)

    @torch.no_grad()
    def run() -> None:
        encoded, cache = model.get_encoder()(text), SmallECache(model.config, batch_size)
        for _ in range(num_steps):
            model(encoder_outputs=encoded, decoder_input_ids=column, past_key_values=cache)

    return run


def measure_steps(options: argparse.Namespace) -> list[Results]:
    """Milliseconds of a step of each model, batch and number of threads."""
    num_steps = QUICK_NUM_STEPS if options.quick else NUM_STEPS
    rows = []
    models = build(options.quick)
    for threads, (name, model), batch_size in product(options.threads, models.items(), options.batch_sizes):
        torch.set_num_threads(threads)
        bare = medians(alternate({"bare": forward_passes(model, batch_size, num_steps)}, options.repeats))["bare"]
        generate = generation(model, batch_size, num_steps)
        parts = middle([generate() for _ in range(options.repeats)])
        rows.append(
            {
                "model": name,
                "threads": threads,
                "batch_size": batch_size,
                "step_ms": parts["step"],
                "forward_ms": parts["forward"],
                "rest_ms": parts["step"] - parts["forward"],
                "over_bare_forward": parts["step"] / (1e3 * bare / num_steps),
            }
        )
    print(f"{'model':<14}{'threads':>8}{'batch':>7}{'step':>11}{'forward':>11}{'rest':>11}{'over bare forward':>19}")
    for row in rows:
        times = "".join(f"{row[f'{part}_ms']:8.2f} ms" for part in ("step", "forward", "rest"))
        print(f"{row['model']:<14}{row['threads']:>8}{row['batch_size']:>7}{times}{row['over_bare_forward']:>18.2f}x")
    return rows


def middle(measurements: Sequence[dict[str, float]]) -> dict[str, float]:
    """The measurement with the median step."""
    return sorted(measurements, key=lambda parts: parts["step"])[len(measurements) // 2]


def measure_processes(options: argparse.Namespace) -> list[Results]:
    """Milliseconds of a step of the voice where several processes speak at the same time."""
    rows = []
    for waiting, threads, count in product(["active", "passive"], options.threads, PROCESSES):
        times = speak_side_by_side(waiting, threads, count, options)
        rows.append({"waiting": waiting, "threads": threads, "processes": count, "step_ms": max(times)})
    print(f"{'waiting':<10}{'threads':>8}{'processes':>11}{'step':>11}")
    for row in rows:
        print(f"{row['waiting']:<10}{row['threads']:>8}{row['processes']:>11}{row['step_ms']:8.2f} ms")
    return rows


def speak_side_by_side(waiting: str, threads: int, count: int, options: argparse.Namespace) -> list[float]:
    """Median milliseconds of a step in each of several processes that begin together."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    if waiting == "active":
        del environment["OMP_WAIT_POLICY"]
    settings = {
        "threads": threads,
        "is_quick": options.quick,
        "num_steps": QUICK_NUM_STEPS if options.quick else 5 * NUM_STEPS,
        "repeats": options.repeats,
    }
    command = [sys.executable, "-c", SPEAK, json.dumps(settings)]
    folder = os.path.dirname(os.path.abspath(__file__))
    processes = [
        subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError("A process that shall speak has failed: see its message above.")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate()[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [middle(parts)["step"] for parts in answers]


def judge_steps(rows: Sequence[Results]) -> list[Target]:
    """What a step needs beside its forward pass, in batches of one."""
    return [
        Target(f"milliseconds beside the forward pass, {row['model']}, {row['threads']} threads", row["rest_ms"], 1.0)
        for row in rows
        if row["batch_size"] == 1
    ]


def judge_processes(rows: Sequence[Results]) -> list[Target]:
    """Two processes of one thread, as `smalle speak` has it, against one."""
    times = {row["processes"]: row["step_ms"] for row in rows if (row["waiting"], row["threads"]) == ("passive", 1)}
    if not set(PROCESSES) <= set(times):
        return []
    return [Target("step in two processes of one thread over that in one", times[2] / times[1], 1.5)]


def draw(figure: Any, phases: Results) -> None:
    """Stacked bars of a step's parts, and bars of the processes."""
    panels = iter(figure.subplots(1, len(phases), squeeze=False)[0])
    if "step" in phases:
        axes, rows = next(panels), phases["step"]["rows"]
        labels = [f"{r['model']}\nbatch {r['batch_size']}, {r['threads']} thr." for r in rows]
        axes.bar(labels, [row["forward_ms"] for row in rows], label="forward pass")
        axes.bar(
            labels, [row["rest_ms"] for row in rows], bottom=[row["forward_ms"] for row in rows], label="the rest"
        )
        axes.set_ylabel("ms per step")
        axes.tick_params(axis="x", labelsize=6)
        axes.legend(fontsize="small")
    if "processes" in phases:
        axes, rows = next(panels), phases["processes"]["rows"]
        labels = [f"{r['processes']} proc.\n{r['threads']} thr.\n{r['waiting']}" for r in rows]
        axes.bar(labels, [row["step_ms"] for row in rows])
        axes.set_ylabel("ms per step of the small voice")
        axes.tick_params(axis="x", labelsize=6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["step", "processes"],
        arguments,
        ("--batch-sizes", {"nargs": "+", "type": int, "default": BATCH_SIZES, "help": "(default: %(default)s)"}),
    )
    options.repeats = options.repeats or (1 if options.quick else 5)
    settings = {"num_tokens": NUM_TOKENS, "is_quick": options.quick}
    if "step" in options.phases:
        rows = measure_steps(options)
        report(options.output, "generation_step", "step", settings, rows, judge_steps, draw)
    if "processes" in options.phases:
        rows = measure_processes(options)
        report(options.output, "generation_step", "processes", settings, rows, judge_processes, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
