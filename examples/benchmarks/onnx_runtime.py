"""Exported models against the checkpoints that they come from: PyTorch, ONNX in float32, in 8 bits and in 4.

    python examples/benchmarks/onnx_runtime.py
    python examples/benchmarks/onnx_runtime.py --models demo --threads 1 2 --batch-sizes 1 --folder outputs/exported
    python examples/benchmarks/onnx_runtime.py --quick

Milliseconds of a decoder step, of what is done beside it for every column (sampling and delay pattern, in Python) and
of the codec for a second of speech; and the real-time factor, from text ids to samples, for one text and for several
at a time. "64M" is the paper's preset with the Vocos decoder at 24 kHz, "demo" has the sizes of the demo
voice at 16 kHz; weights are random, or those of a checkpoint that takes their place. All run in alternation in one
process. The phase "exports" has the sizes of the files, and how far logits of the same codes are from PyTorch's.

Writes onnx_runtime.json and, where matplotlib is installed, onnx_runtime.png.
"""

import argparse
import copy
import importlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import Results, Target, alternate, medians, parse, report
from rivals import vocos_config

from smalle_hf import (
    SmallECache,
    SmallEConfig,
    SmallEForSpeechGeneration,
    SmallEProcessor,
    apply_delay,
)
from smalle_hf.configuration_small_codec import SmallCodecConfig
from smalle_hf.onnx import SmallEOnnxModel

TORCH, FLOAT, INT8, INT4 = "PyTorch", "ONNX float32", "ONNX int8", "ONNX int4"
EXPORTS = {FLOAT: "none", INT8: "int8", INT4: "int4"}
DEMO_SIZES: dict[str, Any] = {
    "hidden_size": 192,
    "num_audio_encoder_layers": 2,
    "num_audio_decoder_layers": 2,
    "num_text_encoder_layers": 3,
    "num_text_encoder_attention_heads": 4,
    "codebook_size": 512,
}
NUM_TOKENS = 60
STEPS = 10
COMPARED_FRAMES = 100


def configuration(name: str, is_quick: bool) -> SmallEConfig:
    """Sizes of a model by its name."""
    if is_quick:
        return SmallEConfig.from_preset("tiny", codebook_size=512, codec_config=SmallCodecConfig())
    if name == "demo":
        return SmallEConfig(**DEMO_SIZES, codec_config=SmallCodecConfig())
    return SmallEConfig.from_preset("small-e-64m", codec_config=vocos_config())


@dataclass
class Systems:
    """A model and its exports."""

    model: SmallEForSpeechGeneration
    folders: dict[str, Path]

    @classmethod
    def build(cls, name: str, options: argparse.Namespace, root: Path) -> "Systems":
        """Loads or makes the model, and exports it where no earlier run has."""
        if options.checkpoint is not None:
            model = SmallEForSpeechGeneration.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
            processor = SmallEProcessor.from_pretrained(options.checkpoint)
        else:
            model = SmallEForSpeechGeneration(configuration(name, options.quick)).eval()
            heads = model.lm_heads.weight.data.unflatten(0, (model.config.num_codebooks, -1))
            heads[:, model.config.audio_eos_token_id] = 0.0  # is never among the best: no utterance ends early
            processor = SmallEProcessor.from_characters(config=model.config)
        folders = {system: root / f"{name}-{kind}" for system, kind in EXPORTS.items()}
        missing = [system for system in EXPORTS if not folders[system].exists()]
        if missing:
            export = importlib.import_module("smalle_hf.onnx.export")
            graphs = export.export_graphs(model)
            for system in missing:
                export.write_model(copy.deepcopy(graphs), model, processor, folders[system], EXPORTS[system])
        return cls(model, folders)

    def text(self, batch_size: int) -> torch.Tensor:
        """Ids of sentences, `(B, S)`."""
        config, generator = self.model.config, torch.Generator().manual_seed(0)
        ids = torch.randint(3, config.vocab_size, (batch_size, NUM_TOKENS), generator=generator)
        ids[:, 0], ids[:, -1] = config.bos_token_id, config.eos_token_id
        return ids

    def torch_step(self, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
        """Columns `(B, Q)` to logits `(B, Q, V)`, one after the other."""
        with torch.no_grad():
            encoded = self.model.get_encoder()(self.text(batch_size))
        cache = SmallECache(self.model.config, batch_size)

        @torch.no_grad()
        def step(column: np.ndarray) -> np.ndarray:
            ids = torch.from_numpy(column)[:, None]
            output = self.model(
                encoder_outputs=encoded, decoder_input_ids=ids, past_key_values=cache, output_attentions=True
            )
            return output.logits[:, 0].numpy()

        return step

    def onnx_step(self, model: SmallEOnnxModel, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
        """The same in ONNX Runtime."""
        ids = self.text(batch_size).numpy()
        state = model.graphs.start(model.graphs.encode_text(ids, np.ones_like(ids)))
        return lambda column: state.step(column)[0]

    def open(self, threads: int) -> dict[str, Any]:
        """All systems by name."""
        exports = {system: SmallEOnnxModel.from_pretrained(folder, threads) for system, folder in self.folders.items()}
        return {TORCH: self.model, **exports}

    def step(self, model: Any, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
        """A step of one of the systems."""
        return self.torch_step(batch_size) if model is self.model else self.onnx_step(model, batch_size)

    def speech(self, model: Any, batch_size: int, frames: int, output_audio: bool) -> Callable[[], object]:
        """Speaks so many frames of every text, as sound or as codes."""
        options: dict[str, Any] = {"max_new_tokens": frames, "seed": 0, "top_k": 100, "output_audio": output_audio}
        text = self.text(batch_size)
        return lambda: model.generate(text if model is self.model else text.numpy(), **options)

    def sound(self, model: Any, batch_size: int, frames: int) -> Callable[[], object]:
        """Decodes so many frames of as many utterances."""
        config = self.model.config
        codes = torch.randint(config.codebook_size, (batch_size, frames, config.num_codebooks))
        return lambda: model.decode_audio(codes if model is self.model else codes.numpy())


def run_steps(step: Callable[[np.ndarray], np.ndarray], column: np.ndarray) -> None:
    """Steps in a row, for a model that another one has driven out of the processor's caches is slow at first."""
    for _ in range(STEPS):
        step(column)


def measure_speed(
    name: str, systems: Systems, threads: int, batch_size: int, options: argparse.Namespace
) -> list[Results]:
    """Times of all systems with so many threads, for so many texts at a time."""
    torch.set_num_threads(threads)
    frames, config = (10 if options.quick else 75), systems.model.config
    models = systems.open(threads)
    column = np.full((batch_size, config.num_codebooks), config.codebook_offset)
    steps = {system: partial(run_steps, systems.step(model, batch_size), column) for system, model in models.items()}
    step_times = medians(alternate(steps, 5 * options.repeats))
    codes, speech = (
        medians(
            alternate(
                {s: systems.speech(m, batch_size, frames, has_sound) for s, m in models.items()}, options.repeats
            )
        )
        for has_sound in (False, True)
    )
    sounds = {system: systems.sound(model, batch_size, frames) for system, model in models.items()}
    sound = medians(alternate(sounds, options.repeats))
    seconds = batch_size * frames / config.frame_rate
    return [
        {
            "model": name,
            "system": system,
            "threads": threads,
            "batch_size": batch_size,
            "step_ms": 1e3 * step_times[system] / STEPS,
            "beside_step_ms": 1e3 * (codes[system] / (frames + config.max_delay) - step_times[system] / STEPS),
            "codec_ms_per_second": 1e3 * sound[system] / seconds,
            "real_time_factor": speech[system] / seconds,
            "step_speed_over_torch": step_times[TORCH] / step_times[system],
            "speech_speed_over_torch": speech[TORCH] / speech[system],
        }
        for system in models
    ]


def measure_exports(name: str, systems: Systems, checkpoint: Path | None) -> list[Results]:
    """Sizes of the files, and distances of their logits from PyTorch's on the same columns."""
    config = systems.model.config
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(config.codebook_size, (COMPARED_FRAMES, config.num_codebooks), generator=generator)
    if checkpoint is not None:  # its own speech, which is what it will be asked for
        codes = systems.model.generate(systems.text(1), seed=0, max_new_tokens=COMPARED_FRAMES).sequences[0]
    columns = apply_delay(codes, config).numpy()
    rows, expected = [], _logits(systems.torch_step(1), columns)
    for system, folder in systems.folders.items():
        found = _logits(systems.onnx_step(SmallEOnnxModel.from_pretrained(folder, 1), 1), columns)
        difference = np.abs(found - expected)
        rows.append(
            {
                "model": name,
                "system": system,
                "megabytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
                "max_logit_difference": float(difference.max()),
                "mean_logit_difference": float(difference.mean()),
                "mean_logit": float(np.abs(expected).mean()),
                "same_best_id": float((found.argmax(axis=-1) == expected.argmax(axis=-1)).mean()),
            }
        )
    return rows


def _logits(step: Callable[[np.ndarray], np.ndarray], columns: np.ndarray) -> np.ndarray:
    return np.stack([step(np.ascontiguousarray(column[None]))[0].copy() for column in columns])


def judge(rows: Sequence[Results]) -> list[Target]:
    """Each model with the number of threads that serves it best."""
    targets = []
    for name, limit in (("64M", 0.5), ("demo", 0.15)):
        mine = [row for row in rows if (row["model"], row["system"], row["batch_size"]) == (name, INT8, 1)]
        if mine:
            best = min(mine, key=lambda row: row["real_time_factor"])
            targets.append(Target(f"real-time factor of {name} in 8 bits", best["real_time_factor"], limit))
            beside = min(row["beside_step_ms"] for row in mine)
            targets.append(Target(f"milliseconds beside a step of {name} in 8 bits", beside, 1.0))
    return targets


def print_rows(rows: Sequence[Results]) -> None:
    """Prints a table of whatever the rows hold."""
    print("".join(f"{name:>25}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>25.4g}" if isinstance(value, float) else f"{value:>25}" for value in row.values()))


def draw(figure: Any, phases: Results) -> None:
    """Bars of the steps and of the real-time factors."""
    rows = phases["speed"]["rows"]
    places = [f"{row['model']}, {row['system']}, {row['threads']} thr., batch {row['batch_size']}" for row in rows]
    for axes, key in zip(figure.subplots(1, 2, sharey=True), ("step_ms", "real_time_factor"), strict=True):
        axes.bar_label(axes.barh(places, [row[key] for row in rows]), fmt="%.3g", padding=2)
        axes.margins(x=0.15)
        axes.set_title(key.replace("_", " "), fontsize="medium")
    axes.invert_yaxis()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["exports", "speed"],
        arguments,
        ("--models", {"nargs": "+", "choices": ["64M", "demo"], "default": ["64M", "demo"], "help": "(default: all)"}),
        ("--batch-sizes", {"nargs": "+", "type": int, "default": [1, 8], "help": "(default: %(default)s)"}),
        ("--checkpoint", {"type": Path, "help": "trained model that is measured in place of random weights"}),
        ("--folder", {"type": Path, "help": "where exported models are kept; those that are there are not made anew"}),
    )
    if lacking := [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]:
        print(f"Nothing is measured without {', '.join(lacking)}: pip install 'smalle-hf[onnx]'.", file=sys.stderr)
        return 0
    options.repeats = options.repeats or (1 if options.quick else 5)
    models = options.models[-1:] if options.quick or options.checkpoint is not None else options.models
    speed, exports = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for name in models:
            systems = Systems.build(name, options, options.folder or Path(temporary))
            if "exports" in options.phases:
                exports += measure_exports(name, systems, options.checkpoint)
            if "speed" in options.phases:
                for threads, batch_size in product(options.threads, options.batch_sizes):
                    speed += measure_speed(name, systems, threads, batch_size, options)
    if exports:
        print_rows(exports)
        report(options.output, "onnx_runtime", "exports", {}, exports)
    if speed:
        print_rows(speed)
        report(options.output, "onnx_runtime", "speed", {"text_tokens": NUM_TOKENS}, speed, judge, draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
