"""Bad input to `generate()`: one line that says what to do, before anything is computed."""

from typing import Any

import pytest
import torch
from core_models import lively_model, random_codes, random_text, small_config
from transformers import EncodecConfig, GenerationConfig

from smalle_hf import SmallECache, SmallEForSpeechGeneration, SmallEModel


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> SmallEForSpeechGeneration:
    """A model that must not be run: whatever is refused is refused before."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model was run before the input was checked")

    model = lively_model(small_config(max_text_length=50))
    monkeypatch.setattr(SmallEModel, "forward", refuse)
    monkeypatch.setattr(type(model.model.text_encoder), "forward", refuse)
    return model


def text() -> torch.Tensor:
    return random_text(small_config(), 6)


def prompt(**changes: Any) -> dict[str, Any]:
    return {"audio_prompt_codes": random_codes(small_config(), 5), **changes}


TEXTS = {
    "no text": ({}, ValueError, r"There is no text: pass `input_ids`, for example `model\.generate"),
    "no rows": ({"input_ids": torch.zeros(0, 4, dtype=torch.long)}, ValueError, "empty: pass at least one word"),
    "no tokens": ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, ValueError, "empty: pass at least one word"),
    "only BOS and EOS": ({"input_ids": torch.tensor([[1, 2]])}, ValueError, r"rows \[0\] is empty: pass at least one"),
    "one row only padding": (
        {"input_ids": torch.tensor([[1, 9, 2], [1, 2, 0]])},
        ValueError,
        r"The text of rows \[1\] is empty",
    ),
    "all masked": (
        {"input_ids": text(), "attention_mask": torch.zeros(1, 6)},
        ValueError,
        r"The text of rows \[0\] is empty",
    ),
    "floats": ({"input_ids": torch.rand(1, 4)}, TypeError, r"`input_ids` must hold integers, got torch\.float32"),
    "one dimension": ({"input_ids": text()[0]}, ValueError, r"must have shape \(batch, tokens\), got \(6,\)"),
    "text instead of ids": ({"input_ids": "hello"}, TypeError, "input_ids"),
    "list instead of a tensor": ({"input_ids": [[1, 5, 2]]}, TypeError, "input_ids"),
    "too long": (
        {"input_ids": random_text(small_config(), 51)},
        ValueError,
        r"51 tokens, more than `config\.max_text_length` \(50\): split it into sentences",
    ),
    "of another tokenizer": (
        {"input_ids": torch.tensor([[1, 40, 2]])},
        ValueError,
        r"1\.\.40 exceed the vocabulary of 40: use the processor of this checkpoint",
    ),
    "negative": ({"input_ids": torch.tensor([[1, -5, 2]])}, ValueError, "exceed the vocabulary"),
    "mask of another shape": (
        {"input_ids": text(), "attention_mask": torch.ones(1, 5)},
        ValueError,
        r"`attention_mask` \(1, 5\) must have the shape of `input_ids` \(1, 6\)",
    ),
    "given twice": ({"inputs": text(), "input_ids": text()}, ValueError, "Pass the text once"),
}

PROMPTS = {
    "floats": (prompt(audio_prompt_codes=torch.rand(1, 5, 4)), TypeError, "integer codes.*encode the audio"),
    "8 codebooks": (
        prompt(audio_prompt_codes=torch.zeros(1, 5, 8, dtype=torch.long)),
        ValueError,
        r"got \(1, 5, 8\): transpose it, or keep the first 4 codebooks",
    ),
    "transposed": (prompt(audio_prompt_codes=torch.zeros(1, 4, 5, dtype=torch.long)), ValueError, "transpose it"),
    "no batch": (prompt(audio_prompt_codes=torch.zeros(5, 4, dtype=torch.long)), ValueError, "one prompt for each"),
    "more prompts than texts": (
        prompt(audio_prompt_codes=random_codes(small_config(), 5, batch=2)),
        ValueError,
        r"\(2, 5, 4\) needs one prompt for each of the 1 texts",
    ),
    "code too large": (prompt(audio_prompt_codes=torch.full((1, 5, 4), 30)), ValueError, r"0\.\.29, got 30\.\.30"),
    "code negative": (prompt(audio_prompt_codes=torch.full((1, 5, 4), -1)), ValueError, r"0\.\.29, got -1\.\.-1"),
    "list instead of a tensor": (prompt(audio_prompt_codes=[[1, 2, 3, 4]]), TypeError, "audio_prompt_codes"),
    "no frames": (prompt(audio_prompt_codes=random_codes(small_config(), 0)), ValueError, "audio_prompt_codes.*frame"),
    "mask of another shape": (
        prompt(audio_prompt_mask=torch.ones(1, 4)),
        ValueError,
        r"`audio_prompt_mask` \(1, 4\) must have shape \(1, 5\)",
    ),
    "with decoder ids": (
        prompt(decoder_input_ids=torch.ones(1, 1, 4, dtype=torch.long)),
        ValueError,
        "A voice prompt begins an utterance: pass it without `decoder_input_ids`",
    ),
    "audio without a codec": ({"input_values": torch.rand(1, 100)}, ValueError, "holds no codec"),
    "audio and codes": (prompt(input_values=torch.rand(1, 100)), ValueError, "Pass the voice once"),
}

MODES = {
    "beam search": ({"num_beams": 2, "do_sample": False}, "cannot generate by beam search: leave `num_beams`"),
    "beam sampling": ({"num_beams": 2, "do_sample": True}, "cannot generate by beam sample"),
    "assistant": ({"assistant_model": lively_model()}, "`assistant_model`.*leave it out"),
    "prompt lookup": ({"prompt_lookup_num_tokens": 3}, "cannot generate by"),
    "guidance": ({"guidance_scale": 3.0}, "`guidance_scale`.*leave it out"),
    "negative prompt": ({"negative_prompt_ids": text()}, "`negative_prompt_ids`"),
    "embeddings": ({"inputs_embeds": torch.rand(1, 3, 32)}, "`inputs_embeds`"),
    "stop strings": ({"stop_strings": ["a"]}, "`stop_strings`"),
    "constraints": ({"prefix_allowed_tokens_fn": lambda *_: [1]}, "`prefix_allowed_tokens_fn`"),
    "another cache": ({"cache_implementation": "static"}, "`cache_implementation`"),
    "hidden states": ({"output_hidden_states": True}, "`output_hidden_states`"),
    "minimum in columns": ({"min_length": 7}, "`min_new_tokens`"),
    "no frames": ({"max_new_tokens": 0}, "`max_new_tokens` must be .* at least 1"),
    "negative frames": ({"max_new_tokens": -3}, "`max_new_tokens` must be .* at least 1"),
    "half a frame": ({"max_new_tokens": 3.5}, "`max_new_tokens` must be a whole number"),
    "too many sampled codebooks": ({"num_sampled_codebooks": 5}, r"`num_sampled_codebooks` must lie in 0\.\.4"),
    "misspelt option": ({"max_new_token": 5}, "max_new_token"),
    "temperature of zero": ({"temperature": 0.0}, "temperature.*do_sample=False"),
    "seed and generator": ({"seed": 1, "generator": torch.Generator()}, "Pass `generator` or `seed`, not both"),
    "too few seeds": ({"seed": [1, 2]}, "one generator or seed for each of the 1 utterances, got 2"),
    "audio without a codec": ({"output_audio": True}, "This checkpoint holds no codec: set `config.codec_config`"),
    "state of another batch size": (
        {"past_key_values": SmallECache(small_config(), 3)},
        "The cache holds 3 utterances, the text 1: select rows of the cache",
    ),
    "state of another model": (
        {"past_key_values": SmallECache(small_config(hidden_size=64), 1)},
        "it belongs to another model",
    ),
    "decoder ids out of range": (
        {"decoder_input_ids": torch.tensor([[[1] * 4, [40] * 4]])},
        r"`decoder_input_ids` must lie in 0\.\.32",
    ),
    "decoder ids of another shape": (
        {"decoder_input_ids": torch.ones(1, 2, dtype=torch.long)},
        r"`decoder_input_ids` must have shape \(batch, columns, 4\), got \(1, 2\)",
    ),
    "decoder ids without a start": (
        {"decoder_input_ids": torch.full((1, 2, 4), 9)},
        "must begin with a column of start ids",
    ),
    "decoder ids of another batch": (
        {"decoder_input_ids": torch.ones(2, 2, 4, dtype=torch.long)},
        "decoder_input_ids",
    ),
}


def assert_refused(model: SmallEForSpeechGeneration, arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        model.generate(**arguments)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("case", TEXTS)
def test_texts(model: SmallEForSpeechGeneration, case: str) -> None:
    assert_refused(model, *TEXTS[case])


@pytest.mark.parametrize("case", PROMPTS)
def test_voice_prompts(model: SmallEForSpeechGeneration, case: str) -> None:
    arguments, error, message = PROMPTS[case]
    assert_refused(model, {"input_ids": text(), **arguments}, error, message)


@pytest.mark.parametrize("case", MODES)
def test_modes_and_options(model: SmallEForSpeechGeneration, case: str) -> None:
    arguments, message = MODES[case]
    assert_refused(model, {"input_ids": text(), **arguments}, ValueError, message)


@pytest.mark.parametrize("case", ["beam search", "guidance", "stop strings", "another cache", "minimum in columns"])
@pytest.mark.parametrize("where", ["argument", "model"])
def test_options_of_a_generation_config(model: SmallEForSpeechGeneration, case: str, where: str) -> None:
    """They count as if they were given as arguments."""
    options, message = MODES[case]
    arguments: dict[str, Any] = {"input_ids": text()}
    if where == "argument":
        arguments["generation_config"] = GenerationConfig(**options)
    else:
        for name, value in options.items():
            setattr(model.generation_config, name, value)
    assert_refused(model, arguments, ValueError, message)


def test_prompt_with_a_state(model: SmallEForSpeechGeneration) -> None:
    arguments = {"input_ids": text(), "past_key_values": SmallECache(model.config), **prompt()}
    assert_refused(model, arguments, ValueError, "pass it without `past_key_values`")


# Voice prompts as audio


@pytest.fixture
def model_with_codec(monkeypatch: pytest.MonkeyPatch) -> SmallEForSpeechGeneration:
    """As `model`; its codec must not be run either."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was run before the input was checked")

    codec = EncodecConfig(
        num_filters=2, hidden_size=8, codebook_dim=8, codebook_size=32, num_lstm_layers=1, target_bandwidths=[6.0]
    )
    model = lively_model(small_config(codebook_size=32, codec_config=codec))
    monkeypatch.setattr(SmallEModel, "forward", refuse)
    monkeypatch.setattr(type(model.codec_model), "encode", refuse)
    monkeypatch.setattr(type(model.codec_model), "decode", refuse)
    return model


AUDIO = {
    "nothing": (torch.zeros(1, 0), ValueError, "The audio is empty: pass at least one sample"),
    "NaN": (torch.tensor([[0.0, float("nan")]]), ValueError, "NaN or infinite samples: repair or drop"),
    "infinite": (torch.tensor([[0.0, float("inf")]]), ValueError, "NaN or infinite samples"),
    "no batch": (torch.zeros(100), ValueError, r"shape \(batch, samples\), mono, got \(100,\)"),
    "stereo": (torch.zeros(1, 2, 100), ValueError, r"mono, got \(1, 2, 100\)"),
    "more recordings than texts": (torch.zeros(2, 100), ValueError, "one prompt for each of the 1 texts"),
    "integers": (torch.zeros(1, 100, dtype=torch.int16), TypeError, "floating|float"),
}


@pytest.mark.parametrize("case", AUDIO)
def test_audio_prompts(model_with_codec: SmallEForSpeechGeneration, case: str) -> None:
    audio, error, message = AUDIO[case]
    assert_refused(model_with_codec, {"input_ids": text(), "input_values": audio}, error, message)


@pytest.mark.parametrize("case", ["beam search", "half a frame", "state of another batch size"])
def test_options_are_checked_before_audio_is_encoded(model_with_codec: SmallEForSpeechGeneration, case: str) -> None:
    options, message = MODES[case]
    arguments = {"input_ids": text(), "input_values": torch.zeros(1, 4000), **options}
    assert_refused(model_with_codec, arguments, ValueError, message)


def test_mask_that_leaves_no_audio(model_with_codec: SmallEForSpeechGeneration) -> None:
    arguments = {"input_ids": text(), "input_values": torch.zeros(1, 50), "input_values_mask": torch.zeros(1, 50)}
    assert_refused(model_with_codec, arguments, ValueError, "The audio is empty")
