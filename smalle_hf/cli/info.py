"""`smalle info`: what a checkpoint is, read from its files without loading the weights."""

import argparse
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig

from .. import SmallEConfig
from ..codec_smalle import available_codebooks
from ..voice_files import list_voices, read_codes
from .facts import describe_files, show_facts

CODEC_PREFIX = "codec_model."


def run(options: argparse.Namespace) -> int:
    """Prints what is known about a folder; returns the exit code.

    Raises:
        FileNotFoundError: There is no checkpoint in it.
        ValueError: A file of it is damaged.
    """
    show_facts(describe_checkpoint(options.folder), options.json)
    return 0


def describe_checkpoint(folder: str) -> dict[str, Any]:
    """Facts about a checkpoint or codec.

    Args:
        folder (`str`): Its folder.

    Returns:
        `dict` of type, parameters, sampling rate (Hz), frame rate (frames per second), codebooks, codes in each,
        licence, bytes and files; for a Small-E also its sizes, its codec, and the length of each voice in seconds.
        What is not known is `None`.

    Raises:
        FileNotFoundError: There is no such folder, or it has no configuration.
        ValueError: A file is damaged.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it is no folder with a config.json.")
    try:
        config = AutoConfig.from_pretrained(path)
        parameters = count_parameters(path)
    except (SafetensorError, StrictDataclassError, OSError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from error
    facts = {"type": config.model_type, "parameters": sum(parameters.values())}
    facts |= _describe_model(config, parameters, path) if isinstance(config, SmallEConfig) else _describe_codec(config)
    return {**facts, **describe_files(path)}


def count_parameters(folder: Path) -> dict[str, int]:
    """Parameters of every tensor in the safetensors files of a folder, by name."""
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            counts |= {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return counts


def _describe_model(config: SmallEConfig, parameters: dict[str, int], folder: Path) -> dict[str, Any]:
    voices = {name: len(read_codes(folder / "voices" / f"{name}.safetensors")[0]) for name in list_voices(folder)}
    return {
        "codec_parameters": sum(count for name, count in parameters.items() if name.startswith(CODEC_PREFIX)),
        "codec": getattr(config.codec_config, "model_type", None),
        "sampling_rate": config.sampling_rate,
        "frame_rate": config.frame_rate,
        "codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "width": config.hidden_size,
        "audio_blocks": config.num_hidden_layers,
        "text_blocks": config.num_text_encoder_layers,
        "cross_attention": config.cross_attention,
        "text_vocabulary": config.vocab_size,
        "longest_text": config.max_text_length,
        "voices": {name: round(frames / config.frame_rate, 2) for name, frames in voices.items()},
    }


def _describe_codec(config: PreTrainedConfig) -> dict[str, Any]:
    model: Any = SimpleNamespace(config=config)
    facts = {name: getattr(config, name, None) for name in ("sampling_rate", "frame_rate")}
    return {
        **facts,
        "codebooks": available_codebooks(model),
        "codebook_size": getattr(config, "codebook_size", None),
    }


__all__ = ["count_parameters", "describe_checkpoint", "run"]
