"""Models that can be heard, and what a stream owes to `generate`."""

from collections.abc import Sequence
from typing import Any

import torch
from codec_models import dac_config, encodec_config, lively_codec, small_codec_config
from core_models import endless_model

from smalle_hf import SmallEAudioChunk, SmallEForSpeechGeneration, SmallEGenerateOutput

CODEC_CONFIGS = {"small": small_codec_config, "encodec": encodec_config, "dac": dac_config}


def speaking_model(codec: str = "small", build: Any = endless_model, **options: Any) -> SmallEForSpeechGeneration:
    """A random model with a random codec inside."""
    config = CODEC_CONFIGS[codec]()
    model = build(codec_config=config, codebook_size=config.codebook_size, **options)
    lively_codec(model.codec_model)
    return model


def joined(chunks: Sequence[SmallEAudioChunk], row: int = 0) -> torch.Tensor:
    """The audio of a row."""
    return torch.cat([chunk.audio[row, : chunk.audio_lengths[row]] for chunk in chunks])


def assert_streamed(chunks: Sequence[SmallEAudioChunk], output: SmallEGenerateOutput) -> None:
    """Audio to 1e-4 and codes exactly, row by row."""
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for row, length in enumerate(output.audio_lengths.tolist()):
        audio = joined(chunks, row)
        assert len(audio) == length
        assert length == 0 or (audio - output.audio[row, :length]).abs().max() <= 1e-4
        codes = torch.cat([chunk.sequences[row, : chunk.sequence_lengths[row]] for chunk in chunks])
        assert torch.equal(codes, output.sequences[row, : output.sequence_lengths[row]])
    for chunk in chunks:
        for row, length in enumerate(chunk.audio_lengths.tolist()):
            assert not chunk.audio[row, length:].any()
    assert torch.equal(chunks[-1].is_finished, output.is_finished)
    assert output.audio.abs().max() > 0
