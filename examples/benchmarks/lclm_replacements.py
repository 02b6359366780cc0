"""The token mixer of an LCLM block against what could stand in its place: Mamba2 and attention of equal width.

    python examples/benchmarks/lclm_replacements.py
    python examples/benchmarks/lclm_replacements.py --phases step --lengths 500 20000 --threads 1
    python examples/benchmarks/lclm_replacements.py --quick

Gated linear attention as Small-E has it, the mixer of Mamba2 and the attention of Llama, the latter two from
Transformers, with their usual proportions at the width of the 64M model. On a CPU, Transformers has no kernels for
Mamba2 and runs it in plain PyTorch.

Phases:
  training  forward and backward over so many frames, in microseconds per frame
  step      one frame after so many others, in microseconds

All run in alternation in one process. Writes lclm_replacements.json and, where matplotlib is installed,
lclm_replacements.png.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import Results, alternate, median_ratio, medians, parse, report
from rivals import PreallocatedCache, num_parameters
from torch import nn
from transformers import DynamicCache, LlamaConfig, Mamba2Config
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from smalle_hf import SmallEConfig
from smalle_hf.layers_smalle import SmallELinearAttention

OURS = "gated linear attention"
LENGTHS, QUICK_LENGTHS = [512, 1024, 2048, 4096, 8192], [64, 128]
NUM_STEPS, QUICK_NUM_STEPS = 50, 3
"""Steps that are timed together."""

HEAD_SIZE = 64


class GatedLinearAttention(nn.Module):
    """The mixer of an LCLM block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = SmallEConfig(hidden_size=width)
        self.mixer = SmallELinearAttention(self.config, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.mixer(hidden_states, None, None, None)[0]

    def stepper(self, hidden_states: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that mixes one frame after the given ones, which are read first."""
        state = self.mixer(hidden_states, None, None, None)[1]

        def step(frame: torch.Tensor) -> torch.Tensor:
            nonlocal state
            out, state = self.mixer(frame, state, None, None)
            return out

        return step


class Mamba2(nn.Module):
    """The mixer of Mamba2 in its usual proportions: twice the width inside, a state of 128."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = Mamba2Config(
            hidden_size=width, num_hidden_layers=1, num_heads=2 * width // HEAD_SIZE, head_dim=HEAD_SIZE, n_groups=1
        )
        self.mixer = Mamba2Mixer(self.config, layer_idx=0)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.mixer(hidden_states)

    def stepper(self, hidden_states: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """As [`GatedLinearAttention.stepper`]."""
        cache = DynamicCache(config=self.config)
        self.mixer(hidden_states, cache_params=cache)
        return lambda frame: self.mixer(frame, cache_params=cache)


class Attention(nn.Module):
    """Llama's attention: rotary positions, scaled dot products."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = LlamaConfig(hidden_size=width, num_hidden_layers=1, num_attention_heads=width // HEAD_SIZE)
        self.config._attn_implementation = "sdpa"
        self.mixer = LlamaAttention(self.config, layer_idx=0)
        self.rotary = LlamaRotaryEmbedding(self.config)

    def forward(self, hidden_states: torch.Tensor, cache: PreallocatedCache | None = None) -> torch.Tensor:
        begin = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(begin, begin + hidden_states.shape[1])[None]
        rotations = self.rotary(hidden_states, positions)
        return self.mixer(hidden_states, rotations, attention_mask=None, past_key_values=cache)[0]

    def stepper(self, hidden_states: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """As [`GatedLinearAttention.stepper`]."""
        length = hidden_states.shape[1]
        cache = PreallocatedCache(self.config, length + 1)
        self(hidden_states, cache)

        def step(frame: torch.Tensor) -> torch.Tensor:
            cache.truncate(length)
            return self(frame, cache)

        return step


MIXERS: dict[str, Callable[[int], Any]] = {OURS: GatedLinearAttention, "Mamba2": Mamba2, "attention": Attention}


def training_steps(mixers: dict[str, Any], length: int, width: int) -> dict[str, Callable[[], object]]:
    """Forward and backward over so many frames."""
    hidden_states = torch.randn(1, length, width)
    return {
        name: (lambda mixer=mixer: mixer.train()(hidden_states).sum().backward()) for name, mixer in mixers.items()
    }


def decoding_steps(mixers: dict[str, Any], length: int, width: int, count: int) -> dict[str, Callable[[], object]]:
    """So many single frames after so many others."""
    hidden_states, frame = torch.randn(1, length, width), torch.randn(1, 1, width)

    @torch.no_grad()
    def run(step: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for _ in range(count):
            step(frame)

    with torch.no_grad():
        steppers = {name: mixer.eval().stepper(hidden_states) for name, mixer in mixers.items()}
    return {name: (lambda step=step: run(step)) for name, step in steppers.items()}


def rows_of(
    times: dict[str, list[float]], mixers: dict[str, Any], length: int, frames: int, threads: int
) -> list[Results]:
    """Microseconds per frame and ratios of one length."""
    return [
        {
            "mixer": name,
            "parameters": num_parameters([mixers[name]]),
            "threads": threads,
            "frames": length,
            "microseconds_per_frame": 1e6 * seconds / frames,
            "over_gated_linear_attention": median_ratio(times[name], times[OURS]),
        }
        for name, seconds in medians(times).items()
    ]


def print_rows(phase: str, rows: Sequence[Results]) -> None:
    """Prints a table."""
    for row in rows:
        print(
            f"{phase:<9}{row['mixer']:<23}{row['parameters'] / 1e6:5.2f}M, {row['threads']} threads, "
            f"{row['frames']:>5} frames: {row['microseconds_per_frame']:9.1f} µs per frame, "
            f"{row['over_gated_linear_attention']:6.2f} times that of {OURS}"
        )


def draw(figure: Any, phases: Results) -> None:
    """Time per frame over the length, one line for each mixer."""
    titles = {"training": "forward and backward, µs per frame", "step": "one step, µs"}
    for axes, (phase, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        rows = phases.get(phase, {}).get("rows", [])
        axes.set_title(title, fontsize="medium")
        for name in MIXERS:
            mine = [row for row in rows if row["mixer"] == name and row["threads"] == rows[0]["threads"]]
            axes.plot([r["frames"] for r in mine], [r["microseconds_per_frame"] for r in mine], "o-", label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("frames")
        axes.legend(fontsize="small")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    phases = ["training", "step"]
    options = parse(
        __doc__ or "",
        phases,
        arguments,
        ("--lengths", {"nargs": "+", "type": int, "help": "in frames"}),
        ("--width", {"type": int, "default": 512, "help": "(default: %(default)s)"}),
    )
    repeats = options.repeats or (1 if options.quick else 5)
    count = QUICK_NUM_STEPS if options.quick else NUM_STEPS
    mixers = {name: make(options.width) for name, make in MIXERS.items()}
    for phase in options.phases:
        rows = []
        for threads in options.threads:
            torch.set_num_threads(threads)
            for length in options.lengths or (QUICK_LENGTHS if options.quick else LENGTHS):
                if phase == "training":
                    steps, frames = training_steps(mixers, length, options.width), length
                else:
                    steps, frames = decoding_steps(mixers, length, options.width, count), count
                rows += rows_of(alternate(steps, repeats), mixers, length, frames, threads)
        print_rows(phase, rows)
        report(options.output, "lclm_replacements", phase, {"width": options.width}, rows, draw=draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
