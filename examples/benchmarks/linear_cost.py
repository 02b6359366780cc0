"""Cost of a frame by the length of the utterance, against the decoder-only baseline of equal size.

    python examples/benchmarks/linear_cost.py
    python examples/benchmarks/linear_cost.py --phases training --lengths 1024 16384 --checkpointing --repeats 1
    python examples/benchmarks/linear_cost.py --phases memory
    python examples/benchmarks/linear_cost.py --quick

Phases:
  training    forward and backward of utterances of so many frames with their texts, in microseconds per frame
  generation  a frame that is generated after so many others
  memory      peak memory of generating 10 seconds and 10 minutes, as a stream of audio or as all codes at once

Training and generation are measured in alternation in one process. In training the text grows with the speech, so the
cross-attention of Small-E is part of what is measured. Writes linear_cost.json and, where matplotlib is installed,
linear_cost.png; phases, lengths and models that were measured earlier are kept.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from comparison import Results, Target, alternate, forget_peak_memory, medians, parse, peak_memory, report
from rivals import (
    DecoderOnlyForSpeechGeneration,
    DelayedDecoding,
    PreallocatedCache,
    equal_size,
    num_parameters,
    random_columns,
    random_text,
)
from torch import nn

from smalle_hf import SmallCodecConfig, SmallECache, SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.configuration_smalle import PRESETS
from smalle_hf.training.cpu_memory import keep_freed_memory

NAMES = ("Small-E", "decoder-only")
LENGTHS = {"training": [1024, 2048, 4096, 8192, 16384], "generation": [500, 1000, 2000, 5000, 10_000, 20_000]}
QUICK_LENGTHS = {"training": [64, 128], "generation": [50, 100]}
DURATIONS, QUICK_DURATIONS = (10, 600), (1, 3)
"""Seconds of speech that are generated to look at memory."""

WAYS = ("stream of audio", "codes in one piece")
MINIATURE = SmallEConfig.from_preset(
    "tiny",
    hidden_size=32,
    num_audio_encoder_layers=1,
    num_audio_decoder_layers=1,
    codebook_size=512,
    codec_config=SmallCodecConfig(num_encoder_layers=0, decoder_hidden_size=16, num_decoder_layers=1),
)
"""For looking at memory: sizes have no part in how it grows."""

NEW_FRAMES, QUICK_NEW_FRAMES = 40, 5
"""Frames that are generated to time one."""


def build(preset: str) -> dict[str, Any]:
    """Small-E and the baseline with as many parameters, by name."""
    config = SmallEConfig.from_preset(preset)
    models = (SmallEForSpeechGeneration(config), DecoderOnlyForSpeechGeneration(config, equal_size(config)))
    return dict(zip(NAMES, models, strict=True))


def training_step(model: nn.Module, frames: int, batch_size: int, config: SmallEConfig) -> Callable[[], None]:
    """Forward and backward of a batch of utterances of so many frames."""
    text, columns = random_text(frames, config, batch_size), random_columns(frames + 1, config, batch_size)

    def step() -> None:
        model(input_ids=text, decoder_input_ids=columns[:, :-1], labels=columns[:, 1:]).loss.backward()
        model.zero_grad()

    return step


def measure_training(options: argparse.Namespace) -> list[Results]:
    """Microseconds of training per frame at each length. All steps have as many frames, so their tensors are alike."""
    keep_freed_memory()  # as training does on a CPU
    models = build(options.preset)
    if options.checkpointing:
        models[NAMES[0]].gradient_checkpointing_enable()
        models[NAMES[1]].transformer.gradient_checkpointing_enable()
    config = models[NAMES[0]].config
    lengths = lengths_of(options, "training")
    per_step = options.frames_per_step or lengths[-1]
    keys = [(name, frames) for frames in lengths for name in options.models]
    steps = {
        f"{name} {frames}": training_step(models[name].train(), frames, max(per_step // frames, 1), config)
        for name, frames in keys
    }
    for name in options.models:  # what the longest frees, all others take again
        steps[f"{name} {lengths[-1]}"]()
    times = alternate(steps, options.repeats, warm_ups=0)
    return [
        {
            "model": name,
            "parameters": num_parameters([models[name]]),
            "frames": frames,
            "frames_per_step": max(per_step // frames, 1) * frames,
            "checkpointing": options.checkpointing,
            "microseconds_per_frame": 1e6 * seconds / (max(per_step // frames, 1) * frames),
        }
        for (name, frames), seconds in zip(keys, medians(times).values(), strict=True)
    ]


def judge_training(rows: Sequence[Results]) -> list[Target]:
    """The longest utterance against the shortest one in steps of as many frames, made in the same way."""
    most = max((row["frames_per_step"], row["checkpointing"]) for row in rows)
    rows = [row for row in rows if (row["frames_per_step"], row["checkpointing"]) == most]
    return growth(rows, "microseconds_per_frame", "training cost of a frame", 1.15)


class Prompt:
    """What both models remember of a long utterance, at several of its frames.

    Args:
        models: Small-E and the baseline.
        frames: Frames at which Small-E's state is kept, in ascending order. The baseline's cache is truncated instead.
        num_new (`int`): Frames that shall be generated behind each of them.
    """

    @torch.no_grad()
    def __init__(self, models: dict[str, Any], frames: list[int], num_new: int) -> None:
        self.ours, self.baseline = (models[name].eval() for name in NAMES)
        config = self.ours.config
        self.num_new = num_new
        self.num_columns = num_new + config.max_delay
        self.text, self.next_column = random_text(500, config), random_columns(1, config)
        self.states: dict[int, SmallECache] = {}
        state, encoded = SmallECache(config), self.ours.get_encoder()(self.text)
        for begin, end in pairwise([0, *frames]):
            for columns in random_columns(end - begin, config).split(500, dim=1):
                self.ours(encoder_outputs=encoded, decoder_input_ids=columns, past_key_values=state, logits_to_keep=1)
            self.states[end] = state.clone()
        sizes = self.baseline.transformer.config
        length = self.text.shape[1] + frames[-1]
        self.keys_and_values = PreallocatedCache(sizes, length + self.num_columns)
        for layer in range(sizes.num_hidden_layers):  # what keys and values are does not matter, how many does
            shape = (2, 1, sizes.num_attention_heads, length, sizes.head_dim)
            self.keys_and_values.update(*torch.randn(shape).unbind(), layer)

    def continue_ours(self, frames: int) -> None:
        """Generates `num_new` frames of Small-E behind a frame."""
        self.ours.generate(
            input_ids=self.text,
            decoder_input_ids=self.next_column,
            past_key_values=self.states[frames],  # it is copied
            max_new_tokens=self.num_new,
            min_new_tokens=self.num_new,
        )

    @torch.no_grad()
    def continue_baseline(self, frames: int) -> None:
        """Generates `num_new` frames of the baseline behind a frame."""
        self.keys_and_values.truncate(self.text.shape[1] + frames)
        config = self.baseline.config
        decoding = DelayedDecoding(config, 1, self.num_new, self.num_new, self.text.device)
        while not decoding.is_done():
            hidden_states = self.baseline.transformer(
                inputs_embeds=self.baseline.embed_columns(decoding.ids),
                past_key_values=self.keys_and_values,
                use_cache=True,
            )[0]
            decoding.advance(self.baseline.compute_logits(hidden_states[:, -1]), 100, None)

    def nbytes(self, name: str, frames: int) -> int:
        """Bytes that a model remembers at a frame."""
        if name == NAMES[0]:
            return self.states[frames].nbytes
        self.keys_and_values.truncate(self.text.shape[1] + frames)
        return self.keys_and_values.nbytes


def measure_generation(options: argparse.Namespace) -> list[Results]:
    """Milliseconds of a generated frame, and bytes that are remembered, after so many frames."""
    frames = lengths_of(options, "generation")
    models = build(options.preset)
    prompt = Prompt(models, frames, QUICK_NEW_FRAMES if options.quick else NEW_FRAMES)
    continuations = dict(zip(NAMES, (prompt.continue_ours, prompt.continue_baseline), strict=True))
    keys = [(name, count) for count in frames for name in options.models]
    steps = {f"{name} {count}": (lambda name=name, count=count: continuations[name](count)) for name, count in keys}
    times = alternate(steps, options.repeats)
    return [
        {
            "model": name,
            "parameters": num_parameters([models[name]]),
            "frames": count,
            "milliseconds_per_frame": 1e3 * seconds / prompt.num_columns,
            "cache_mib": prompt.nbytes(name, count) / 2**20,
        }
        for (name, count), seconds in zip(keys, medians(times).values(), strict=True)
    ]


def judge_generation(rows: Sequence[Results]) -> list[Target]:
    """The last frame against the first one."""
    cost = growth(rows, "milliseconds_per_frame", "cost of a generated frame", 1.05)
    return cost + growth(rows, "cache_mib", "bytes remembered", 1.0)


def measure_memory(options: argparse.Namespace) -> list[Results]:
    """Peak memory of processes that generate speech of different lengths."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for way in WAYS:
        for duration in QUICK_DURATIONS if options.quick else DURATIONS:
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=send_peak_memory, args=(sender, way, duration))
            child.start()
            sender.close()
            rows.append(receiver.recv())
            child.join()
    return rows


def judge_memory(rows: Sequence[Results]) -> list[Target]:
    """The longest generation against the shortest one."""
    targets = []
    for way in WAYS:
        mine = sorted((row for row in rows if row["model"] == way), key=lambda row: row["frames"])
        name = f"{way}: MiB that {mine[-1]['seconds']} s take beyond {mine[0]['seconds']} s"
        targets.append(Target(name, mine[-1]["peak_mib"] - mine[0]["peak_mib"], 5.0))
    return targets


@torch.no_grad()
def send_peak_memory(sender: Any, way: str, duration: int) -> None:
    """Generates so many seconds and sends the most memory that this process had meanwhile."""
    torch.set_num_threads(1)
    model = SmallEForSpeechGeneration(MINIATURE).eval()
    text = random_text(500, model.config)

    def generate(frames: int) -> None:
        arguments = {"input_ids": text, "max_new_tokens": frames, "min_new_tokens": frames, "seed": 0}
        if way == WAYS[0]:
            num_samples = sum(chunk.audio.shape[1] for chunk in model.stream(**arguments))
            assert num_samples == frames * model.config.frame_length
        else:
            assert model.generate(**arguments, output_audio=False).sequences.shape[1] == frames

    generate(50)  # allocates what every generation needs
    forget_peak_memory()
    frames = round(duration * model.config.frame_rate)
    generate(frames)
    sender.send({"model": way, "seconds": duration, "frames": frames, "peak_mib": peak_memory()})


def lengths_of(options: argparse.Namespace, phase: str) -> list[int]:
    """Lengths in frames, in ascending order."""
    default = QUICK_LENGTHS if options.quick else LENGTHS
    return sorted(options.lengths or default[phase])


def growth(rows: Sequence[Results], quantity: str, name: str, limit: float) -> list[Target]:
    """How a quantity of Small-E grows from the shortest to the longest utterance; none of a single length."""
    ours = sorted((row for row in rows if row["model"] == NAMES[0]), key=lambda row: row["frames"])
    if len(ours) < 2:
        return []
    name = f"{name} at {ours[-1]['frames']} frames over that at {ours[0]['frames']}"
    return [Target(name, ours[-1][quantity] / ours[0][quantity], limit)]


def print_rows(title: str, rows: Sequence[Results]) -> None:
    """Prints a table."""
    print(f"{title}:")
    for row in rows:
        numbers = (f"{name} {value:,.2f}" for name, value in row.items() if isinstance(value, float))
        print(f"  {row['model']:<20}{row['frames']:>7} frames: {', '.join(numbers)}")


def draw(figure: Any, phases: Results) -> None:
    """Cost of training, cost of generation and bytes remembered over the length, one line for each model."""
    panels = [
        ("training", "microseconds_per_frame", "training, µs per frame"),
        ("generation", "milliseconds_per_frame", "generation, ms per frame"),
        ("generation", "cache_mib", "remembered, MiB"),
    ]
    for axes, (phase, quantity, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        rows = sorted(phases.get(phase, {}).get("rows", []), key=lambda row: row["frames"])
        lines: dict[str, list[Results]] = {}
        for row in rows:
            way = ", checkpointing" if row.get("checkpointing") else ""
            lines.setdefault(row["model"] + way, []).append(row)
        for label, line in sorted(lines.items(), reverse=True):
            axes.plot([row["frames"] for row in line], [row[quantity] for row in line], "o-", label=label)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("frames")
        axes.set_title(title, fontsize="medium")
        if lines:
            axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    phases: dict[str, tuple[Any, Any]] = {
        "training": (measure_training, judge_training),
        "generation": (measure_generation, judge_generation),
        "memory": (measure_memory, judge_memory),
    }
    options = parse(
        __doc__ or "",
        list(phases),
        arguments,
        ("--preset", {"choices": sorted(PRESETS), "help": "(default: small-e-64m)"}),
        ("--models", {"nargs": "+", "choices": NAMES, "default": list(NAMES), "help": "(default: both)"}),
        ("--frames-per-step", {"type": int, "help": "of a training batch (default: the longest utterance)"}),
        (
            "--checkpointing",
            {"action": "store_true", "help": "train with gradient checkpointing, which takes less memory"},
        ),
        ("--lengths", {"nargs": "+", "type": int, "help": "in frames; for training and generation"}),
    )
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.preset = options.preset or ("tiny" if options.quick else "small-e-64m")
    for phase in options.phases:
        measure, judge = phases[phase]
        for threads in options.threads:
            torch.set_num_threads(threads)
            rows = measure(options)
            print_rows(f"{phase}, {threads} threads", rows)
            settings = {} if phase == "memory" else {"preset": options.preset, "threads": threads}
            report(options.output, "linear_cost", phase, settings, rows, judge, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
