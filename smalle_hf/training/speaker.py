"""Speaks samples during training, with the very model that would be exported, and draws their alignments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from ..alignment import plot_alignment
from ..modeling_smalle import SmallEForSpeechGeneration
from ..processing_smalle import SmallEProcessor


@dataclass(frozen=True)
class SpokenSample:
    """A spoken text.

    Args:
        text (`str`): What was to be said.
        waveform (`torch.Tensor` of shape `(samples,)`, *optional*): The sound, where there is a codec.
        picture (array of shape `(height, width, 3)`, uint8): The alignment.
    """

    text: str
    waveform: torch.Tensor | None
    picture: NDArray[np.uint8]


def speak(
    model: SmallEForSpeechGeneration, processor: SmallEProcessor, text: str, max_seconds: float, stem: Path, seed: int
) -> SpokenSample:
    """Speaks one text and writes `stem.png` and, with a codec, `stem.wav`.

    Args:
        model ([`SmallEForSpeechGeneration`]): Complete model in evaluation mode.
        processor ([`SmallEProcessor`]): Its processor.
        text (`str`): Text.
        max_seconds (`float`): Where to cut an utterance that does not end.
        stem (`Path`): Files to write, without suffix.
        seed (`int`): Of the sampling.
    """
    inputs = processor(text, return_tensors="pt").to(model.device)
    max_frames = max(int(max_seconds * model.config.frame_rate), 1)
    output: Any = model.generate(**inputs, max_new_tokens=max_frames, return_alignments=True, seed=seed)
    num_frames = int(output.sequence_lengths[0])
    stem.parent.mkdir(parents=True, exist_ok=True)
    labels = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    picture_file = stem.with_name(f"{stem.name}.png")
    plot_alignment(output.alignments[0, :num_frames].float().cpu(), labels, picture_file, model.config.frame_rate)
    waveform = None
    if output.audio is not None:
        waveform = output.audio[0, : int(output.audio_lengths[0])].float().cpu()
        soundfile.write(stem.with_name(f"{stem.name}.wav"), waveform.numpy(), model.config.sampling_rate)
    with Image.open(picture_file) as image:
        return SpokenSample(text, waveform, np.asarray(image.convert("RGB")))


__all__ = ["SpokenSample", "speak"]
