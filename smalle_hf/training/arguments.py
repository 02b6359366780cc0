"""Arguments of `examples/train.py`: typed, read from a YAML file and from the command line, which wins."""

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from transformers import HfArgumentParser

AT_LEAST_ONE = (
    "frames_per_batch",
    "gradient_accumulation",
    "keep_last",
    "log_every",
    "min_frames",
    "num_buckets",
    "num_epochs",
    "pad_to_multiple_of",
    "save_every",
    "validate_every",
)


class ArgumentsError(ValueError):
    """Arguments that contradict each other or what they point to: the message is one line and says what to do."""


@dataclass(kw_only=True)
class TrainingArguments:
    """What a run depends on. Every field is an option of the command line and a key of the YAML file."""

    # Data
    train_data: str = field(default="", metadata={"help": "token cache made by examples/encode_dataset.py"})
    validation_data: str | None = field(default=None, metadata={"help": "token cache to validate on"})
    held_out: int = field(
        default=0, metadata={"help": "without validation_data: utterances to take out of train_data for validation"}
    )
    min_frames: int = field(default=1, metadata={"help": "leave out shorter utterances"})
    max_frames: int | None = field(default=None, metadata={"help": "leave out longer utterances"})
    frames_per_batch: int = field(
        default=20_000, metadata={"help": "most frames of a batch on one process, padding included"}
    )
    gradient_accumulation: int = field(default=1, metadata={"help": "batches per process and step"})
    num_buckets: int = field(default=10, metadata={"help": "length buckets"})
    pack_columns: int | None = field(
        default=None, metadata={"help": "pack utterances into rows of that many columns instead of padding them"}
    )
    pad_to_multiple_of: int = field(default=1, metadata={"help": "round lengths up, for compiled kernels"})
    num_workers: int = field(default=0, metadata={"help": "processes that load data, per training process"})

    # Model
    preset: str = field(default="small-e-64m", metadata={"help": "model sizes: small-e-64m or tiny"})
    model_options: list[str] = field(
        default_factory=list, metadata={"help": "configuration values that differ, as hidden_size=192 dropout=0.1"}
    )
    processor: str | None = field(
        default=None, metadata={"help": "processor folder; by default it is trained on the texts of train_data"}
    )
    text_units: Literal["bpe", "characters", "phonemes"] = field(
        default="bpe", metadata={"help": "text tokens of a new processor: byte pairs, single characters, or phonemes"}
    )
    phoneme_voice: str = field(default="en-us", metadata={"help": "voice of espeak-ng that pronounces the phonemes"})
    text_vocab_size: int = field(default=256, metadata={"help": "byte-pair vocabulary of a new processor"})
    language: str = field(default="en", metadata={"help": "language of a new processor's text normalisation"})
    codec: str | None = field(default=None, metadata={"help": "codec, a folder or Hub id, for samples and the result"})
    init_from: str | None = field(default=None, metadata={"help": "trained model to fine-tune, a folder or Hub id"})
    lora_rank: int = field(default=0, metadata={"help": "fine-tune with LoRA of this rank; 0 tunes all weights"})
    lora_alpha: float | None = field(default=None, metadata={"help": "scale of LoRA; by default twice the rank"})
    lora_result: Literal["merged", "adapter"] = field(
        default="merged", metadata={"help": "save the model with the LoRA weights merged in, or the adapter alone"}
    )

    # Optimisation
    max_steps: int | None = field(default=None, metadata={"help": "optimizer steps; overrides num_epochs"})
    num_epochs: int = field(default=15, metadata={"help": "passes over the data"})
    learning_rate: float = field(default=5e-4, metadata={"help": "highest learning rate"})
    min_learning_rate: float = field(default=0.0, metadata={"help": "learning rate at the end of the cosine"})
    warmup_steps: int = field(default=500, metadata={"help": "steps of linear warm-up"})
    adam_beta1: float = field(default=0.9, metadata={"help": "decay of AdamW's first moment"})
    adam_beta2: float = field(default=0.999, metadata={"help": "decay of AdamW's second moment"})
    weight_decay: float = field(default=0.1, metadata={"help": "of AdamW, on matrices only"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "clip the gradient to this norm"})
    input_noise: float = field(
        default=0.0, metadata={"help": "share of input codes replaced by random ones: trust the text, not the past"}
    )
    max_loss: float | None = field(
        default=None, metadata={"help": "stop at a higher loss in nats; by default at twice that of guessing"}
    )
    ema_decay: float = field(default=0.0, metadata={"help": "average the weights with this decay; 0 does not"})
    mixed_precision: Literal["no", "bf16"] | None = field(
        default=None, metadata={"help": "by default what `accelerate launch` says"}
    )
    matmul_precision: Literal["highest", "high", "medium"] = field(
        default="highest",
        metadata={
            "help": "of float32 products: high and medium may round their factors to TF32 or bfloat16 where the "
            "processor gains by it; see torch.set_float32_matmul_precision"
        },
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "recompute activations to save memory"})
    torch_compile: bool = field(
        default=False, metadata={"help": "compile the layers, the recurrence as one operator on CUDA"}
    )
    seed: int = field(default=0, metadata={"help": "of weights, order and dropout"})

    # Run
    output_dir: str = field(default="", metadata={"help": "folder for result, checkpoints, samples and logs"})
    resume: bool = field(default=True, metadata={"help": "go on from the newest checkpoint in output_dir"})
    save_every: int = field(default=1000, metadata={"help": "steps between checkpoints"})
    keep_last: int = field(default=2, metadata={"help": "checkpoints to keep beside the best one"})
    result_from: Literal["last", "best"] = field(
        default="last", metadata={"help": "weights to export: the last, or those of the lowest validation loss"}
    )
    result_dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "precision of the exported weights"}
    )
    peak_tflops: float | None = field(
        default=None,
        metadata={
            "help": "10^12 operations per second that a device can do, to log the share in use as mfu; those of known "
            "GPUs are looked up"
        },
    )
    log_every: int = field(default=10, metadata={"help": "steps between log lines"})
    report_to: list[str] = field(
        default_factory=lambda: ["tensorboard"], metadata={"help": "trackers of Accelerate by name, or none"}
    )
    project: str = field(default="small-e", metadata={"help": "project name for trackers"})
    validate_every: int = field(default=1000, metadata={"help": "steps between validations"})
    sample_every: int = field(default=0, metadata={"help": "steps between spoken samples; 0 makes none"})
    sample_texts: list[str] = field(
        default_factory=list, metadata={"help": "what to speak; by default the first validation texts"}
    )
    sample_seconds: float = field(default=10.0, metadata={"help": "longest sample"})
    licence: str | None = field(default=None, metadata={"help": "licence of the result, for its model card"})
    push_to_hub: str | None = field(default=None, metadata={"help": "Hub repository to upload the result to"})

    def __post_init__(self) -> None:
        for name in ("train_data", "output_dir"):
            if not getattr(self, name):
                raise ArgumentsError(f"`{name}` is missing: set it in the configuration or with --{name}.")
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ArgumentsError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ArgumentsError(f"`max_steps` must be at least 1, got {self.max_steps}.")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ArgumentsError(f"`peak_tflops` must be above 0, got {self.peak_tflops}.")
        for name in ("ema_decay", "input_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ArgumentsError(f"`{name}` must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.lora_rank and self.init_from is None:
            raise ArgumentsError("`lora_rank` needs a trained model: name it with --init_from.")
        if self.validation_data is not None and self.held_out:
            raise ArgumentsError("Validate on `validation_data` or on `held_out` utterances, not on both.")
        if self.result_from == "best" and self.validation_data is None and not self.held_out:
            raise ArgumentsError("`result_from` best needs `validation_data` or `held_out`.")
        if self.sample_every and self.validation_data is None and not self.held_out and not self.sample_texts:
            raise ArgumentsError("`sample_every` needs `sample_texts`, `validation_data` or `held_out`.")

    @property
    def trackers(self) -> list[str]:
        """Trackers of Accelerate to log with."""
        return [] if self.report_to == ["none"] else self.report_to


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description and shows defaults."""


class _Parser(HfArgumentParser):
    """Says what is wrong in one line, without the long usage, and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{Path(self.prog).name}: error: {' '.join(message.split())}\n")


def parse_arguments(description: str, arguments: Sequence[str] | None = None) -> TrainingArguments:
    """Reads the command line and the YAML file that its `--config` names.

    Args:
        description (`str`): Text at the top of `--help`.
        arguments (sequence of `str`, *optional*): The command line, without the program; by default `sys.argv[1:]`.

    Raises:
        SystemExit: With code 2 and one line on stderr where an argument is unknown or wrong.
    """
    parser = _Parser(
        TrainingArguments,
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with any of the arguments below")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        config = _config_of(given)
        values = parser.parse_args([*(yaml_as_arguments(config) if config else []), *given])
        return TrainingArguments(**{name: value for name, value in vars(values).items() if name != "config"})
    except ArgumentsError as error:
        parser.error(str(error))


def _config_of(given: Sequence[str]) -> str | None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    return finder.parse_known_args(given)[0].config


def yaml_as_arguments(path: str) -> list[str]:
    """Turns a YAML file into the command line that says the same, so that both are checked alike.

    Raises:
        ArgumentsError: The file is missing or no mapping, or it has an unknown key.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentsError(f"Cannot read the configuration {path}: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise ArgumentsError(f"{path} must hold `name: value` lines.")
    names = [option.name for option in fields(TrainingArguments)]
    arguments = []
    for name, value in values.items():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f": did you mean `{close[0]}`?" if close else "."
            raise ArgumentsError(f"{path} has the unknown argument `{name}`{hint}")
        if isinstance(value, dict):
            value = [f"{key}={json.dumps(item)}" for key, item in value.items()]
        if value is None or value == []:
            continue
        arguments += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return arguments


def model_overrides(options: Sequence[str]) -> dict[str, Any]:
    """Reads `["hidden_size=192", "delays=[0, 1, 2, 3]"]`: values are JSON, or else plain text.

    Raises:
        ArgumentsError: An option has no `=`.
    """
    overrides = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ArgumentsError(f"`model_options` are written name=value, got {option!r}.")
        try:
            overrides[name.strip()] = json.loads(value)
        except ValueError:
            overrides[name.strip()] = value.strip()
    return overrides


__all__ = ["ArgumentsError", "TrainingArguments", "model_overrides", "parse_arguments", "yaml_as_arguments"]
