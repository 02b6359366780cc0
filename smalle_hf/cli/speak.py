"""`smalle speak` with a checkpoint."""

import argparse

import torch

from ..long_form import Narrator, stream_speech
from . import speaking
from .checkpoints import find_checkpoint, load_speaker


def run(options: argparse.Namespace) -> int:
    """See [`speaking.run`]."""
    return speaking.run(options, load)


def load(options: argparse.Namespace) -> speaking.Speaker:
    """Loads the checkpoint that the command line names.

    Raises:
        OSError: It cannot be found or read.
        ValueError: It cannot speak.
    """
    torch.set_num_threads(options.threads)
    checkpoint = find_checkpoint(options.model, "--model")
    model, processor = load_speaker(checkpoint, options.device)

    def encode(path: str) -> torch.Tensor:
        return model.encode_audio(processor(audio=path).input_values.to(model.device))[0][0].cpu()

    return speaking.Speaker(model, processor, checkpoint, Narrator, stream_speech, encode)


__all__ = ["load", "run"]
