"""`stream()`: whatever the chunks are, together they are what `generate` returns."""

import gc
import weakref
from typing import Any

import pytest
import torch
from codec_models import dac_config, encodec_config, lively_codec, small_codec_config
from core_models import SAMPLED, StopAfter, endless_model, pad, random_codes, random_text, stopping_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StoppingCriteriaList

from smalle_hf import SmallECache, SmallEForSpeechGeneration
from smalle_hf.alignment import analyze_alignment, token_times

CODEC_CONFIGS = {"small": small_codec_config, "encodec": encodec_config, "dac": dac_config}


def speaking_model(codec: str = "small", build: Any = endless_model, **options: Any) -> SmallEForSpeechGeneration:
    config = CODEC_CONFIGS[codec]()
    model = build(codec_config=config, codebook_size=config.codebook_size, **options)
    lively_codec(model.codec_model)
    return model


MODELS = {name: speaking_model(name) for name in CODEC_CONFIGS}
"""For hypothesis, which does not mix with fixtures that are made anew for each test. Nothing may change them."""


def joined(chunks: list, row: int = 0) -> torch.Tensor:
    return torch.cat([chunk.audio[row, : chunk.audio_lengths[row]] for chunk in chunks])


def assert_streams_what_generate_returns(model, chunks, output, tolerance=1e-4) -> None:
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for row, length in enumerate(output.audio_lengths.tolist()):
        audio = joined(chunks, row)
        assert len(audio) == length
        if length:
            assert (audio - output.audio[row, :length]).abs().max() <= tolerance
        codes = torch.cat([chunk.sequences[row, : chunk.sequence_lengths[row]] for chunk in chunks])
        assert torch.equal(codes, output.sequences[row, : output.sequence_lengths[row]])
    assert torch.equal(chunks[-1].is_finished, output.is_finished)


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=12)
@given(
    chunk_ms=st.floats(1, 400),
    lookahead_ms=st.sampled_from([0, 0, 13, 200]),
    seed=st.integers(0, 50),
    frames=st.integers(1, 70),
    prompt=st.sampled_from([0, 1, 9]),
)
def test_a_stream_is_what_generate_returns(name, chunk_ms, lookahead_ms, seed, frames, prompt) -> None:
    model = MODELS[name]
    inputs: dict[str, Any] = {"input_ids": random_text(model.config, 9, seed), "max_new_tokens": frames}
    inputs |= {"seed": seed, **SAMPLED}
    if prompt:
        inputs["audio_prompt_codes"] = random_codes(model.config, prompt, seed)
    output = model.generate(**inputs, return_alignments=True)
    chunks = list(model.stream(**inputs, chunk_ms=chunk_ms, lookahead_ms=lookahead_ms))
    assert_streams_what_generate_returns(model, chunks, output)
    path = analyze_alignment(output.alignments, output.sequence_lengths).path
    expected = token_times(path, output.sequence_lengths, 9, model.config.frame_rate)
    torch.testing.assert_close(chunks[-1].token_times, expected, equal_nan=True)
