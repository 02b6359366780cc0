"""Contracts of the forward pass: one path for any split, causality, padding without effect, what comes back."""

import itertools
from typing import Any

import pytest
import torch
from core_models import assert_close, lively_model, pad, random_columns, random_text, small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf import SmallECache, SmallEForSpeechGeneration, SmallEModel

CROSS_ATTENTIONS = ["paca", "standard"]


@pytest.fixture(params=CROSS_ATTENTIONS)
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return lively_model(small_config(cross_attention=request.param))


MODELS = {name: lively_model(small_config(cross_attention=name)) for name in CROSS_ATTENTIONS}
"""For hypothesis, which does not mix with fixtures that are made anew for each test. Nothing may change them."""


def run(model: SmallEForSpeechGeneration, text: torch.Tensor, columns: torch.Tensor, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=text, decoder_input_ids=columns, output_attentions=True, **kwargs)


def assert_same_state(found: SmallECache, expected: SmallECache) -> None:
    assert torch.equal(found.frame_index, expected.frame_index)
    for state, wanted in zip(found.states, expected.states, strict=True):
        assert_close(state, wanted)


# One path


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 69), max_size=6, unique=True),
    length=st.integers(1, 70),
    name=st.sampled_from(CROSS_ATTENTIONS),
)
def test_any_split_gives_the_same_as_the_whole(cuts: list[int], length: int, name: str) -> None:
    model = MODELS[name]
    text, columns = random_text(model.config, 9, batch=2), random_columns(model.config, length, batch=2)
    whole = run(model, text, columns, use_cache=True)
    cache = SmallECache(model.config, batch_size=2)
    edges = [0, *sorted(cut for cut in cuts if cut < length), length]
    pieces = [run(model, text, columns[:, i:j], past_key_values=cache) for i, j in itertools.pairwise(edges)]
    assert_close(torch.cat([piece.logits for piece in pieces], dim=1), whole.logits)
    assert_close(torch.cat([piece.cross_attentions for piece in pieces], dim=2), whole.cross_attentions)
    assert_same_state(cache, whole.past_key_values)


def test_single_steps_give_the_same_as_the_whole(model: SmallEForSpeechGeneration) -> None:
    text, columns = random_text(model.config, 9), random_columns(model.config, 40)
    whole = run(model, text, columns, use_cache=True)
    cache = SmallECache(model.config)
    steps = [run(model, text, columns[:, t : t + 1], past_key_values=cache) for t in range(40)]
    assert_close(torch.cat([step.logits for step in steps], dim=1), whole.logits)
    assert_close(torch.cat([step.cross_attentions for step in steps], dim=2), whole.cross_attentions)
    assert_same_state(cache, whole.past_key_values)


def test_encoded_text_is_used_instead_of_the_text(model: SmallEForSpeechGeneration) -> None:
    text, columns = random_text(model.config, 9), random_columns(model.config, 12)
    expected = run(model, text, columns)
    encoded = model.get_encoder()(text)
    assert_close(encoded.last_hidden_state, expected.encoder_last_hidden_state)
    with torch.no_grad():
        for outputs in (encoded, (encoded.last_hidden_state,)):
            found = model(encoder_outputs=outputs, decoder_input_ids=columns)
            assert torch.equal(found.logits, expected.logits)


def test_another_encoded_text_replaces_the_one_in_the_cache(model: SmallEForSpeechGeneration) -> None:
    """The cache keeps the text's projection; it must not answer for a text that it does not belong to."""
    texts = [random_text(model.config, 9, seed) for seed in (1, 2)]
    columns = random_columns(model.config, 6)
    caches = []
    for first in texts:
        cache = SmallECache(model.config)
        run(model, first, columns[:, :3], past_key_values=cache)
        caches.append(cache)
    expected = run(model, texts[1], columns[:, 3:], past_key_values=caches[0].clone())
    with torch.no_grad():
        found = model(
            encoder_outputs=model.get_encoder()(texts[1]),
            decoder_input_ids=columns[:, 3:],
            past_key_values=caches[0].clone(),
        )
    assert_close(found.logits, expected.logits)


def test_training_mode_computes_what_evaluation_mode_does(model: SmallEForSpeechGeneration) -> None:
    text, columns = random_text(model.config, 9), random_columns(model.config, 40)
    expected = run(model, text, columns)
    found = run(model.train(), text, columns)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.cross_attentions, expected.cross_attentions)


def test_dropout_acts_in_training_only() -> None:
    model = lively_model(small_config(dropout=0.3, text_encoder_dropout=0.3))
    text, columns = random_text(model.config, 9), random_columns(model.config, 12)
    assert torch.equal(run(model, text, columns).logits, run(model, text, columns).logits)
    model.train()
    assert not torch.allclose(run(model, text, columns).logits, run(model, text, columns).logits)


def test_modules_hold_no_state(model: SmallEForSpeechGeneration) -> None:
    """Neither a call in between nor a cache changes what the next call computes, and no attribute appears."""
    text, columns = random_text(model.config, 9), random_columns(model.config, 12)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    expected = run(model, text, columns)
    run(model, random_text(model.config, 5, seed=3), random_columns(model.config, 7, seed=3), use_cache=True)
    assert torch.equal(run(model, text, columns).logits, expected.logits)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


# Causality


@settings(deadline=None, max_examples=25)
@given(
    length=st.integers(2, 70),
    at=st.integers(1, 69),
    seed=st.integers(1, 99),
    name=st.sampled_from(CROSS_ATTENTIONS),
)
def test_later_columns_change_nothing_before(length: int, at: int, seed: int, name: str) -> None:
    model, at = MODELS[name], min(at, length - 1)
    text, columns = random_text(model.config, 9), random_columns(model.config, length)
    changed = torch.cat([columns[:, :at], random_columns(model.config, length, seed)[:, at:]], dim=1)
    expected, found = run(model, text, columns), run(model, text, changed)
    assert_close(found.logits[:, :at], expected.logits[:, :at])
    assert_close(found.cross_attentions[:, :, :at], expected.cross_attentions[:, :, :at])


def test_every_column_and_every_text_token_counts(model: SmallEForSpeechGeneration) -> None:
    """The other side of causality: what may be heard is heard."""
    text, columns = random_text(model.config, 9), random_columns(model.config, 20)
    expected = run(model, text, columns).logits
    changed = columns.clone()
    changed[0, 7, 2] = 3 + (changed[0, 7, 2] - 2) % 30
    difference = (run(model, text, changed).logits - expected).abs().amax(dim=(0, 2, 3))
    assert (difference[7:12] > 1e-4).all()
    for token in range(9):
        other = text.clone()
        other[0, token] = 3 + (other[0, token] - 2) % 30
        assert (run(model, other, columns).logits - expected).abs().max() > 1e-4


# Padding


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_text_gives_what_the_text_alone_gives(model: SmallEForSpeechGeneration, side: str) -> None:
    texts = [random_text(model.config, length, seed) for seed, length in enumerate((4, 11, 7))]
    columns = random_columns(model.config, 40, batch=3)
    padded, mask = pad(texts, side)
    together = run(model, padded, columns, attention_mask=mask)
    for row, text in enumerate(texts):
        alone = run(model, text, columns[row : row + 1])
        assert_close(together.logits[row : row + 1], alone.logits)
        kept = mask[row].bool()
        assert_close(together.cross_attentions[row : row + 1][..., kept], alone.cross_attentions)
        assert (together.cross_attentions[row][..., ~kept] == 0).all()
        assert_close(together.encoder_last_hidden_state[row : row + 1, kept], alone.encoder_last_hidden_state)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_columns_give_what_the_columns_alone_give(model: SmallEForSpeechGeneration, side: str) -> None:
    rows = [random_columns(model.config, length, seed) for seed, length in enumerate((3, 40, 17))]
    text = random_text(model.config, 9, batch=3)
    padded, mask = pad(rows, side)
    together = run(model, text, padded, decoder_attention_mask=mask, use_cache=True)
    for row, columns in enumerate(rows):
        alone = run(model, text[row : row + 1], columns, use_cache=True)
        kept = mask[row].bool()
        assert_close(together.logits[row : row + 1, kept], alone.logits)
        assert_close(together.cross_attentions[row : row + 1][:, :, kept], alone.cross_attentions)
        assert_same_state(together.past_key_values[row], alone.past_key_values)


@settings(deadline=None, max_examples=20)
@given(mask=st.lists(st.booleans(), min_size=1, max_size=50).filter(any), name=st.sampled_from(CROSS_ATTENTIONS))
def test_masked_columns_change_neither_state_nor_position_wherever_they_are(mask: list[bool], name: str) -> None:
    model = MODELS[name]
    text, columns = random_text(model.config, 6), random_columns(model.config, len(mask), seed=4)
    kept = torch.tensor(mask)
    masked = run(model, text, columns, decoder_attention_mask=kept[None].long(), use_cache=True)
    alone = run(model, text, columns[:, kept], use_cache=True)
    assert_close(masked.logits[:, kept], alone.logits)
    assert_same_state(masked.past_key_values, alone.past_key_values)


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_masks_of_any_type(model: SmallEForSpeechGeneration, dtype: torch.dtype) -> None:
    texts, rows = [random_text(model.config, n) for n in (4, 8)], [random_columns(model.config, n) for n in (6, 9)]
    (text, text_mask), (columns, column_mask) = pad(texts), pad(rows)
    expected = run(model, text, columns, attention_mask=text_mask, decoder_attention_mask=column_mask)
    found = run(model, text, columns, attention_mask=text_mask.to(dtype), decoder_attention_mask=column_mask.to(dtype))
    assert torch.equal(found.logits, expected.logits)


# What comes back


def test_shapes(model: SmallEForSpeechGeneration) -> None:
    config = model.config
    output = run(
        model, random_text(config, 9, batch=2), random_columns(config, 12, batch=2), output_hidden_states=True
    )
    assert output.logits.shape == (2, 12, 4, config.audio_vocab_size)
    maps = 2 if config.cross_attention == "paca" else config.num_attention_heads
    assert output.cross_attentions.shape == (2, maps, 12, 9)
    assert output.encoder_last_hidden_state.shape == (2, 9, config.hidden_size)
    assert [tuple(state.shape) for state in output.decoder_hidden_states] == [(2, 12, config.hidden_size)] * 4
    assert isinstance(output.past_key_values, SmallECache)
    assert output.loss is None


def test_attention_maps_are_distributions(model: SmallEForSpeechGeneration) -> None:
    maps = run(model, random_text(model.config, 9), random_columns(model.config, 12)).cross_attentions
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(maps.shape[:-1]))
    assert maps.std() > 0.01


def test_maps_and_hidden_states_only_on_request(model: SmallEForSpeechGeneration) -> None:
    output = model(input_ids=random_text(model.config, 9), decoder_input_ids=random_columns(model.config, 12))
    assert output.cross_attentions is None
    assert output.decoder_hidden_states is None


@pytest.mark.parametrize("mode", ["eval", "train", "labels"])
def test_cache_is_returned_outside_training(model: SmallEForSpeechGeneration, mode: str) -> None:
    columns = random_columns(model.config, 6)
    model.train(mode == "train")
    labels = columns if mode == "labels" else None
    output = model(input_ids=random_text(model.config, 5), decoder_input_ids=columns, labels=labels)
    assert (output.past_key_values is not None) == (mode == "eval")


def test_tuple_holds_the_same_values(model: SmallEForSpeechGeneration) -> None:
    text, columns = random_text(model.config, 9), random_columns(model.config, 12)
    expected = model(input_ids=text, decoder_input_ids=columns, labels=columns)
    found = model(input_ids=text, decoder_input_ids=columns, labels=columns, return_dict=False)
    assert isinstance(found, tuple)
    for value, wanted in zip(found, expected.to_tuple(), strict=True):
        assert torch.equal(value, wanted)


def test_configuration_may_ask_for_tuples() -> None:
    model = lively_model(small_config(return_dict=False))
    found = model(input_ids=random_text(model.config, 9), decoder_input_ids=random_columns(model.config, 5))
    assert isinstance(found, tuple)
    assert found[0].shape == (1, 5, 4, model.config.audio_vocab_size)


@pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 4])])
def test_logits_of_some_columns(model: SmallEForSpeechGeneration, kept: int | torch.Tensor) -> None:
    text, columns = random_text(model.config, 9), random_columns(model.config, 12)
    expected = run(model, text, columns).logits
    expected = expected[:, -kept:] if isinstance(kept, int) else expected[:, kept]
    assert_close(run(model, text, columns, logits_to_keep=kept).logits, expected)


def test_bare_model_gives_the_hidden_states_under_the_heads(model: SmallEForSpeechGeneration) -> None:
    assert isinstance(model.model, SmallEModel)
    text, columns = random_text(model.config, 9), random_columns(model.config, 12)
    with torch.no_grad():
        hidden_states = model.model(input_ids=text, decoder_input_ids=columns).last_hidden_state
        logits = (hidden_states @ model.lm_heads.weight.T).view(1, 12, 4, -1)
    assert_close(logits, run(model, text, columns).logits)


@pytest.mark.parametrize("num_codebooks", [1, 2, 8])
def test_any_number_of_codebooks(num_codebooks: int) -> None:
    model = lively_model(small_config(num_codebooks=num_codebooks))
    columns = random_columns(model.config, 7)
    output = model(input_ids=random_text(model.config, 5), decoder_input_ids=columns, labels=columns)
    assert output.logits.shape == (1, 7, num_codebooks, model.config.audio_vocab_size)
    assert output.codebook_losses.shape == (num_codebooks,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_finite(model: SmallEForSpeechGeneration, dtype: torch.dtype) -> None:
    text, columns = random_text(model.config, 9), random_columns(model.config, 40)
    expected = run(model, text, columns).logits
    output = run(model.to(dtype), text, columns, use_cache=True)
    assert output.logits.dtype == dtype
    assert all(state.dtype == torch.float32 for state in output.past_key_values.states)
    assert output.cross_attentions.dtype == torch.float32
    # Some ten layers, each rounding to 2^-9 or 2^-12: the logits keep their ranking, not their digits.
    error = (output.logits.float() - expected).norm() / expected.norm()
    assert error < (0.1 if dtype == torch.bfloat16 else 0.02)


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": None}, "Pass the text as `input_ids` or `encoder_outputs`"),
        ({"decoder_input_ids": None}, "Pass `decoder_input_ids` .*, or `labels`"),
        ({"decoder_input_ids": torch.ones(1, 5, dtype=torch.long)}, r"\(batch, columns, 4\), got \(1, 5\): build"),
        ({"decoder_input_ids": torch.ones(1, 5, 8, dtype=torch.long)}, r"\(batch, columns, 4\), got \(1, 5, 8\)"),
    ],
)
def test_wrong_arguments(model: SmallEForSpeechGeneration, changes: dict[str, Any], message: str) -> None:
    arguments = {
        "input_ids": random_text(model.config, 5),
        "decoder_input_ids": random_columns(model.config, 5),
        **changes,
    }
    with pytest.raises(ValueError, match=message) as caught:
        model(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("batch", "cached"), [(2, 1), (1, 3)])
def test_cache_of_another_batch_size_is_refused(model: SmallEForSpeechGeneration, batch: int, cached: int) -> None:
    with pytest.raises(ValueError, match="cache"):
        run(
            model,
            random_text(model.config, 5, batch=batch),
            random_columns(model.config, 5, batch=batch),
            past_key_values=SmallECache(model.config, batch_size=cached),
        )
