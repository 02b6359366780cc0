"""`stream()`: whatever the chunks are, together they are what `generate` returns."""

import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from core_models import GREEDY, SAMPLED, StopAfter, pad, random_codes, random_text, stopping_model
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed_speech import CODEC_CONFIGS, assert_streamed, speaking_model
from transformers import EncodecConfig, GenerationConfig, StoppingCriteriaList

from smalle_hf import SmallECache, SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.alignment import analyze_alignment, token_times, word_times

MODELS = {name: speaking_model(name) for name in CODEC_CONFIGS}
STOPPING = {name: speaking_model(name, stopping_model, boost=2.5) for name in CODEC_CONFIGS}
"""For hypothesis, which does not mix with fixtures that are made anew for each test. Nothing may change them."""


@pytest.fixture
def model() -> SmallEForSpeechGeneration:
    return speaking_model()


def times_of(output: Any, frame_rate: float) -> torch.Tensor:
    """Token times of the whole alignment."""
    path = analyze_alignment(output.alignments, output.sequence_lengths).path
    return token_times(path, output.sequence_lengths, output.alignments.shape[2], frame_rate)


# The same audio


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=12)
@given(
    chunk_ms=st.floats(1, 400),
    lookahead_ms=st.sampled_from([0, 0, 13, 200]),
    seed=st.integers(0, 50),
    frames=st.integers(1, 70),
    prompt=st.sampled_from([0, 1, 9]),
)
def test_a_stream_is_what_generate_returns(
    name: str, chunk_ms: float, lookahead_ms: float, seed: int, frames: int, prompt: int
) -> None:
    model = MODELS[name]
    inputs: dict[str, Any] = {"input_ids": random_text(model.config, 9, seed), "max_new_tokens": frames}
    inputs |= {"seed": seed, **SAMPLED}
    if prompt:
        inputs["audio_prompt_codes"] = random_codes(model.config, prompt, seed)
    output = model.generate(**inputs, return_alignments=True)
    chunks = list(model.stream(**inputs, chunk_ms=chunk_ms, lookahead_ms=lookahead_ms))
    assert_streamed(chunks, output)
    expected = times_of(output, model.config.frame_rate)
    torch.testing.assert_close(chunks[-1].token_times, expected, equal_nan=True)


@pytest.mark.parametrize("enforce", [True, False], ids=["enforced", "free"])
@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=8)
@given(chunk_ms=st.floats(1, 150), lookahead_ms=st.sampled_from([0, 60]), seed=st.integers(0, 1000))
def test_rows_that_end_at_different_frames(
    name: str, enforce: bool, chunk_ms: float, lookahead_ms: float, seed: int
) -> None:
    """Ragged texts and voice prompts, one row without any."""
    model = STOPPING[name]
    text, mask = pad([random_text(model.config, 3 + row, seed + row) for row in range(4)])
    prompt, prompt_mask = pad([random_codes(model.config, frames, frames) for frames in (4, 0, 1, 9)])
    inputs = {
        "input_ids": text,
        "attention_mask": mask,
        "audio_prompt_codes": prompt,
        "audio_prompt_mask": prompt_mask,
        "seed": seed,
        "max_new_tokens": 30,
        "enforce_delay_pattern": enforce,
        **SAMPLED,
    }
    output = model.generate(**inputs, return_alignments=True)
    chunks = list(model.stream(**inputs, chunk_ms=chunk_ms, lookahead_ms=lookahead_ms))
    assert_streamed(chunks, output)
    expected = times_of(output, model.config.frame_rate)
    torch.testing.assert_close(chunks[-1].token_times, expected, equal_nan=True)


@pytest.mark.parametrize(
    "options",
    [
        {"cross_attention": "standard"},
        {"num_codebooks": 1},
        {"delays": [0, 2, 1, 0]},
        {"delays": [3, 0, 5, 1]},
    ],
    ids=str,
)
def test_other_models(options: dict[str, Any]) -> None:
    model = speaking_model(**options)
    inputs = {"inputs": random_text(model.config, 7), "max_new_tokens": 25, "seed": 3}
    chunks = list(model.stream(**inputs, chunk_ms=3))
    output = model.generate(**inputs, return_alignments=True)
    assert_streamed(chunks, output)
    torch.testing.assert_close(
        chunks[-1].token_times, times_of(output, model.config.frame_rate), equal_nan=True, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        {"use_cache": False},
        {"num_return_sequences": 2},
        {"generation_config": GenerationConfig(do_sample=True, temperature=0.5, max_new_tokens=15)},
        {"stopping_criteria": StoppingCriteriaList([StopAfter(11)])},
        {"min_new_tokens": 19},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_generate(model: SmallEForSpeechGeneration, options: dict[str, Any]) -> None:
    inputs = {"inputs": random_text(model.config, 7), "max_new_tokens": 20, "seed": 3, **options}
    if "generation_config" in options:
        del inputs["max_new_tokens"]
    assert_streamed(list(model.stream(**inputs, chunk_ms=7)), model.generate(**inputs))


def test_voice_as_audio(model: SmallEForSpeechGeneration) -> None:
    inputs = {
        "inputs": random_text(model.config, 7),
        "input_values": torch.randn(1, 500, generator=torch.Generator().manual_seed(0)) * 0.1,
        "max_new_tokens": 20,
        "seed": 3,
    }
    assert_streamed(list(model.stream(**inputs)), model.generate(**inputs))


def test_a_stream_goes_on_where_another_one_ended(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    *_, last = model.stream(text, max_new_tokens=20, **GREEDY)
    first = model.generate(text, max_new_tokens=20, **GREEDY)
    assert isinstance(last.past_key_values, SmallECache)
    for found, expected in zip(
        last.past_key_values._tensors().values(), first.past_key_values._tensors().values(), strict=True
    ):
        torch.testing.assert_close(found, expected)
    inputs = {"past_key_values": last.past_key_values, "max_new_tokens": 25, "return_alignments": False, **GREEDY}
    output = model.generate(text, **{**inputs, "return_alignments": True})
    chunks = list(model.stream(text, **inputs, chunk_ms=5))
    assert_streamed(chunks, output)
    torch.testing.assert_close(chunks[-1].token_times, times_of(output, model.config.frame_rate), equal_nan=True)


def test_the_original_size_of_encodec() -> None:
    """The 24 kHz codec as it is configured by default, 75 frames per second."""
    torch.manual_seed(0)
    config = SmallEConfig.from_preset("tiny", codec_config=EncodecConfig())
    model = SmallEForSpeechGeneration(config).eval()
    for layer in model.codec_model.quantizer.layers:
        layer.codebook.embed.normal_()
    inputs = {"inputs": torch.tensor([[1, 7, 8, 2]]), "max_new_tokens": 12, "seed": 0}
    assert_streamed(list(model.stream(**inputs, chunk_ms=40)), model.generate(**inputs))


# Chunks


@pytest.mark.parametrize("name", MODELS)
def test_chunks_are_as_long_as_asked_and_follow_each_other(name: str) -> None:
    model = MODELS[name]
    chunk_ms = 1000 * 6 / model.config.frame_rate
    chunks = list(model.stream(random_text(model.config, 9), max_new_tokens=80, seed=0, chunk_ms=chunk_ms))
    size = 6 * model.config.frame_length
    assert size <= chunks[0].audio.shape[1] <= size + 7 * model.config.frame_length
    assert {chunk.audio.shape[1] for chunk in chunks[1:-1]} == {size}
    samples = 0
    for chunk in chunks:
        assert chunk.start == pytest.approx(samples / model.config.sampling_rate)
        samples += chunk.audio.shape[1]


def test_the_first_chunk_comes_with_the_frames_that_it_needs(
    model: SmallEForSpeechGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [], model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **inputs: calls.append(1) or forward(**inputs))
    frame_ms = 1000 / model.config.frame_rate
    for num_frames, ahead in ((1, 0), (5, 0), (5, 3)):
        calls.clear()
        stream = model.stream(
            random_text(model.config, 9), seed=0, chunk_ms=num_frames * frame_ms, lookahead_ms=ahead * frame_ms
        )
        assert not calls
        next(stream)
        assert len(calls) == num_frames + model.codec_model.config.lookahead_frames + model.config.max_delay + ahead
        next(stream)
        stream.close()


def test_times_that_were_told_stay(model: SmallEForSpeechGeneration) -> None:
    inputs = {"inputs": random_text(model.config, 9), "max_new_tokens": 60, "seed": 4}
    chunks = list(model.stream(**inputs, chunk_ms=1))
    final = chunks[-1].token_times[0]
    assert (~final[:, 0].isnan()).sum() > 2
    for chunk in chunks:
        times = chunk.token_times[0]
        reached = ~times[:, 0].isnan()
        last = int(reached.sum()) - 1
        assert not reached[last + 1 :].any()
        torch.testing.assert_close(times[: last + 1, 0], final[: last + 1, 0])
        if last > 0:
            torch.testing.assert_close(times[:last, 1], final[:last, 1])
        assert times[last, 1] <= final[last, 1]
    words = torch.tensor([-1, 0, 0, -1, 1, 1, 2, 2, -1])
    torch.testing.assert_close(chunks[-1].word_times(words), word_times(chunks[-1].token_times, words), equal_nan=True)


def test_lookahead_tells_times_before_they_are_heard(model: SmallEForSpeechGeneration) -> None:
    inputs = {"inputs": random_text(model.config, 9), "max_new_tokens": 80, "seed": 4, "chunk_ms": 5}
    ahead = []
    for lookahead_ms in (0, 40):
        chunk = next(itertools.islice(model.stream(**inputs, lookahead_ms=lookahead_ms), 2, None))
        heard = chunk.start + chunk.audio.shape[1] / model.config.sampling_rate
        ahead.append(float(chunk.token_times.nan_to_num().max()) - heard)
    assert ahead[1] - ahead[0] == pytest.approx(0.04, abs=1.01 / model.config.frame_rate)


# What it costs


def living_tensors() -> tuple[int, int]:
    """How many tensors there are, and their bytes."""
    gc.collect()
    tensors = [entry for entry in gc.get_objects() if issubclass(type(entry), torch.Tensor)]
    return len(tensors), sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_closing_early_frees_everything(model: SmallEForSpeechGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[Any] = []
    prepare = type(model)._prepare_cache_for_generation

    def watch(self: Any, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        prepare(self, generation_config, model_kwargs, *args, **kwargs)
        caches.append(weakref.ref(model_kwargs["past_key_values"]))

    monkeypatch.setattr(type(model), "_prepare_cache_for_generation", watch)
    text = random_text(model.config, 9)
    before = living_tensors()
    stream = model.stream(text, seed=0)
    next(stream)
    assert caches[-1]() is not None
    stream.close()
    del stream
    for chunk in model.stream(text, seed=0):
        assert not chunk.is_last
        break
    del chunk
    assert living_tensors() == before
    assert [cache() for cache in caches] == [None, None]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_grows_with_the_utterance(name: str) -> None:
    """All tensors that are alive when a chunk is handed out."""
    model = MODELS[name]

    chunk_ms = 1000 * 6 / model.config.frame_rate
    stream = model.stream(random_text(model.config, 9), seed=0, max_new_tokens=400, chunk_ms=chunk_ms)
    sizes = [living_tensors() for index, _ in enumerate(stream) if index in (20, 60)]
    assert sizes[0] == sizes[1]


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_ms": 0}, "`chunk_ms` must be a number of milliseconds above 0"),
        ({"chunk_ms": float("nan")}, "`chunk_ms`"),
        ({"chunk_ms": float("inf")}, "`chunk_ms`"),
        ({"lookahead_ms": -1}, "`lookahead_ms`"),
        ({"output_scores": True}, "A stream gives no `output_scores`"),
        ({"return_alignments": True}, "A stream gives no `return_alignments`"),
        ({"num_candidates": 2}, "use `generate` for `num_candidates`"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"num_beams": 2}, "beam"),
    ],
)
def test_errors_come_with_the_call(model: SmallEForSpeechGeneration, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.stream(random_text(model.config, 9), **options)


def test_without_a_codec_there_is_nothing_to_hear(tiny_model: SmallEForSpeechGeneration) -> None:
    with pytest.raises(ValueError, match="holds no codec"):
        tiny_model.stream(torch.tensor([[1, 5, 2]]))
