"""`smalle info` of a folder that `smalle export` wrote, without torch."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..onnx import SmallEOnnxConfig
from ..voice_files import VOICES_FOLDER, list_voices, read_arrays
from .facts import describe_files, show_facts


def run(options: argparse.Namespace) -> int:
    """Prints what is known about an exported folder; returns the exit code.

    Raises:
        ValueError: A file of it is damaged.
    """
    show_facts(describe_export(Path(options.folder).expanduser()), options.json)
    return 0


def describe_export(folder: Path) -> dict[str, Any]:
    """Facts about an exported model.

    Args:
        folder (`Path`): Its folder.

    Returns:
        `dict` of what [`describe_checkpoint`] tells of the checkpoint, as far as it is known, of how the weights are
        kept, what the codec can do, and the bytes of every graph and of the weights that they share.

    Raises:
        ValueError: A file is damaged.
    """
    config, path = SmallEOnnxConfig.load(folder), folder / "config.json"
    try:
        stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        codec = (stated.get("codec_config") or {}).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): export the model again.") from error
    voices = {name: read_arrays(folder / VOICES_FOLDER / f"{name}.safetensors")[0] for name in list_voices(folder)}
    files = sorted(file for file in folder.iterdir() if file.suffix in (".onnx", ".bin"))
    return {
        "type": "small_e, exported to ONNX",
        "parameters": config.num_parameters,
        "codec_parameters": config.num_codec_parameters,
        "quantization": config.quantization,
        "codec": codec,
        "streams": config.codec_state_shapes is not None,
        "encodes_recordings": config.has_codec_encoder,
        "sampling_rate": config.sampling_rate,
        "frame_rate": config.frame_rate,
        "codebooks": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "text_vocabulary": config.vocab_size,
        "longest_text": config.max_text_length,
        "voices": {name: round(len(codes) / config.frame_rate, 2) for name, codes in voices.items()},
        "graphs": {file.name: file.stat().st_size for file in files},
        **describe_files(folder),
    }


__all__ = ["describe_export", "run"]
