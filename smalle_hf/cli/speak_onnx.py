"""`smalle speak` with a model that `smalle export` wrote, without torch."""

import argparse
import os

import numpy as np

from ..narration import Narrator
from ..onnx import SmallEOnnxModel, SmallEOnnxProcessor, stream_speech
from . import speaking


def run(options: argparse.Namespace) -> int:
    """See [`speaking.run`]."""
    return speaking.run(options, load)


def load(options: argparse.Namespace) -> speaking.Speaker:
    """Opens the exported model that the command line names.

    Raises:
        OSError: It is not whole.
        ValueError: It is damaged, holds no codec, or shall compute on something else than the CPU.
    """
    if options.device not in (None, "cpu"):
        raise ValueError(f"An exported model computes on the CPU, not on {options.device}: leave out --device.")
    folder = os.path.expanduser(options.model)
    model = SmallEOnnxModel.from_pretrained(folder, options.threads)
    if not model.config.has_codec:
        raise ValueError(f"{options.model} has no codec inside and cannot be heard: export a checkpoint with one.")
    processor = SmallEOnnxProcessor.from_pretrained(folder)

    def encode(path: str) -> np.ndarray:
        return model.encode_audio(processor(audio=path)["input_values"])[0][0]

    return speaking.Speaker(model, processor, folder, Narrator, stream_speech, encode)


__all__ = ["load", "run"]
