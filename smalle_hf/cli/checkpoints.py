"""Checkpoints and codecs that a command line names."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from .. import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
from ..codec_smalle import available_codebooks
from ..onnx.configuration import CONFIG_NAME
from ..voices import voice_path


def find_checkpoint(name: str | None, option: str) -> str:
    """Folder or Hub name of a checkpoint, the package's own if none is named.

    Args:
        name (`str`, *optional*): What the user named.
        option (`str`): The option that names it.

    Raises:
        FileNotFoundError: What is named is the path of no folder.
        ValueError: It is an exported model.
    """
    if name is None:
        return str(voice_path())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{name} is no checkpoint: it has no config.json.")
        if (path / CONFIG_NAME).is_file():
            raise ValueError(f"{name} is an exported model, which can but speak: name the checkpoint that it is of.")
        return str(path)
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2:
        raise FileNotFoundError(f"There is no folder {name}: check the path given with {option}.")
    return name


def load_speaker(name: str, device: str | None = None) -> tuple[Any, SmallEProcessor]:
    """Loads a model that can be heard, and its processor.

    Args:
        name (`str`): Folder or Hub name.
        device (`str`, *optional*): Where to compute; a GPU if there is one by default.

    Returns:
        [`SmallEForSpeechGeneration`] in float32 and [`SmallEProcessor`].

    Raises:
        ValueError: It is another kind of model, has no codec, or its processor belongs to another model.
        OSError: It cannot be found or read.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = _load(AutoConfig.from_pretrained, name)
    if not isinstance(config, SmallEConfig):
        raise ValueError(f"{name} is a {config.model_type} model, and no Small-E: name another one with --model.")
    if config.codec_config is None:
        raise ValueError(f"{name} has no codec inside and cannot be heard: convert or export it with one.")
    model = _load(SmallEForSpeechGeneration.from_pretrained, name, dtype=torch.float32).to(device).eval()
    processor = _load(SmallEProcessor.from_pretrained, name)
    processor.check_model(config)
    return model, processor


def load_codec(name: str) -> tuple[PreTrainedModel, SmallEConfig]:
    """Loads a codec, or the one inside a checkpoint.

    Args:
        name (`str`): Folder or Hub name.

    Returns:
        The codec in float32, and a configuration with its rates and codebooks.

    Raises:
        ValueError: There is no codec in it.
        OSError: It cannot be found or read.
    """
    model = _load(AutoModel.from_pretrained, name, dtype=torch.float32).eval()
    if isinstance(model.config, SmallEConfig):
        if model.codec_model is None:
            raise ValueError(f"{name} has no codec inside: name the codec that it was trained with.")
        return model.codec_model, model.config
    num_codebooks, size = available_codebooks(model), getattr(model.config, "codebook_size", None)
    if num_codebooks is None or size is None or not (hasattr(model, "encode") and hasattr(model, "decode")):
        raise ValueError(f"{name} is a {type(model).__name__} and no codec: name one such as EnCodec, Mimi or DAC.")
    return model, SmallEConfig(codec_config=model.config, num_codebooks=num_codebooks, codebook_size=size)


def _load(load: Callable[..., Any], name: str, **options: Any) -> Any:
    logging.disable_progress_bar()
    try:
        return load(name, **options)
    except OSError as error:
        if os.path.isdir(name):
            raise
        raise OSError(f"{name} is no folder, and the Hub gave nothing: {error}") from error
    except (StrictDataclassError, SafetensorError) as error:
        raise ValueError(f"{name} cannot be loaded: {error}") from error


__all__ = ["find_checkpoint", "load_codec", "load_speaker"]
