"""Contracts of the forward pass: one path for any split, causality, padding without effect, packing, the loss."""

import itertools
from typing import Any

import pytest
import torch
from core_models import assert_close, lively_model, pad, random_codes, random_columns, random_text, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from smalle_hf import SmallECache, SmallEForSpeechGeneration, SmallEModel, apply_delay

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


# Packing


def utterances(model: SmallEForSpeechGeneration) -> list[dict[str, torch.Tensor]]:
    """Three utterances as the collator makes them, each alone."""
    singles = []
    for seed, (tokens, frames) in enumerate([(5, 9), (8, 31), (4, 2)]):
        delayed = apply_delay(random_codes(model.config, frames, seed), model.config)
        singles.append(
            {
                "input_ids": random_text(model.config, tokens, seed),
                "decoder_input_ids": delayed[:, :-1],
                "labels": delayed[:, 1:],
            }
        )
    return singles


def packed(singles: list[dict[str, torch.Tensor]], padding: int) -> dict[str, torch.Tensor]:
    """The same in one row, with `padding` columns and tokens behind."""

    def number(name: str) -> torch.Tensor:
        return torch.cat([torch.full(single[name].shape[:2], i + 1) for i, single in enumerate(singles)], dim=1)

    row = {name: torch.cat([single[name] for single in singles], dim=1) for name in singles[0]}
    row |= {"segment_ids": number("input_ids"), "decoder_segment_ids": number("decoder_input_ids")}
    for name, value in row.items():
        filler = value.new_full((1, padding, *value.shape[2:]), -100 if name == "labels" else 0)
        row[name] = torch.cat([value, filler], dim=1)
    row["attention_mask"] = (row["segment_ids"] > 0).long()
    row["decoder_attention_mask"] = (row["decoder_segment_ids"] > 0).long()
    return row


@pytest.mark.parametrize("padding", [0, 5])
def test_packed_utterances_give_what_they_give_apart(model: SmallEForSpeechGeneration, padding: int) -> None:
    singles = utterances(model)
    row = packed(singles, padding)
    together = model(**row, output_attentions=True)
    alone = [model(**single, output_attentions=True) for single in singles]

    num_columns = sum(single["labels"].shape[1] for single in singles)
    assert_close(together.logits[:, :num_columns], torch.cat([output.logits for output in alone], dim=1))
    begin_column = begin_token = 0
    for single, output in zip(singles, alone, strict=True):
        end_column, end_token = begin_column + single["labels"].shape[1], begin_token + single["input_ids"].shape[1]
        maps = together.cross_attentions[:, :, begin_column:end_column]
        assert_close(maps[..., begin_token:end_token], output.cross_attentions)
        begin_column, begin_token = end_column, end_token

    counts = [single["labels"].numel() for single in singles]
    loss = sum(count * output.loss for count, output in zip(counts, alone, strict=True)) / sum(counts)
    assert_close(together.loss, loss)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(together.loss, list(parameters.values()))
    expected = torch.autograd.grad(loss, list(parameters.values()))
    for name, gradient, wanted in zip(parameters, found, expected, strict=True):
        assert (gradient - wanted).norm() <= 1e-3 * wanted.norm(), name


def test_packed_utterance_may_begin_with_padding(model: SmallEForSpeechGeneration) -> None:
    """Padding may stand between utterances too: positions are counted from the first element that is none."""
    singles = utterances(model)[:2]
    row = packed(singles, 0)
    tokens, columns = singles[0]["input_ids"].shape[1], singles[0]["labels"].shape[1]
    expected = model(**row).logits

    def insert(name: str, value: torch.Tensor) -> torch.Tensor:
        at = tokens if name in ("input_ids", "segment_ids", "attention_mask") else columns
        filler = {"labels": -100, "segment_ids": 2, "decoder_segment_ids": 2}.get(name, 0)
        return torch.cat([value[:, :at], value.new_full((1, 3, *value.shape[2:]), filler), value[:, at:]], dim=1)

    found = model(**{name: insert(name, value) for name, value in row.items()}).logits
    assert_close(torch.cat([found[:, :columns], found[:, columns + 3 :]], dim=1), expected)


@pytest.mark.parametrize("left_out", ["segment_ids", "decoder_segment_ids"])
def test_packing_needs_both_kinds_of_segments(model: SmallEForSpeechGeneration, left_out: str) -> None:
    row = packed(utterances(model), 0)
    del row[left_out]
    with pytest.raises(ValueError, match="segment_ids"):
        model(**row)


def test_packed_rows_without_text_mask(model: SmallEForSpeechGeneration) -> None:
    row = packed(utterances(model), 0)
    expected = model(**row)
    del row["attention_mask"], row["decoder_attention_mask"]
    assert_close(model(**row).logits, expected.logits)


def test_packed_rows_cannot_be_continued(model: SmallEForSpeechGeneration) -> None:
    row = packed(utterances(model), 0)
    with pytest.raises(ValueError, match="Packed rows"):
        model(**row, past_key_values=SmallECache(model.config))
    del row["labels"]
    assert model(**row).past_key_values is None


# Loss


def test_loss_is_the_mean_over_every_label_that_counts(model: SmallEForSpeechGeneration) -> None:
    text, columns = random_text(model.config, 9, batch=2), random_columns(model.config, 12, batch=2)
    labels = random_columns(model.config, 13, seed=1, batch=2)[:, 1:]
    labels[1, 5:] = -100
    labels[0, 3, 2] = -100
    output = model(input_ids=text, decoder_input_ids=columns, labels=labels)
    nats = -output.logits.log_softmax(dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    valid = labels != -100
    torch.testing.assert_close(output.loss, nats[valid].mean())
    for codebook in range(4):
        expected = nats[..., codebook][valid[..., codebook]].mean()
        torch.testing.assert_close(output.codebook_losses[codebook], expected)
    assert output.codebook_losses.shape == (4,)
    assert not output.codebook_losses.requires_grad


def test_special_ids_count_in_the_loss(model: SmallEForSpeechGeneration) -> None:
    """Start and stop ids are predicted like any other: they are how the model ends."""
    delayed = apply_delay(random_codes(model.config, 3), model.config)
    output = model(input_ids=random_text(model.config, 5), decoder_input_ids=delayed[:, :-1], labels=delayed[:, 1:])
    expected = F.cross_entropy(output.logits.flatten(0, 2), delayed[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)


def test_num_items_in_batch_divides_the_sum(model: SmallEForSpeechGeneration) -> None:
    """So gradients of micro-batches of different sizes add up to those of the whole batch."""
    singles = utterances(model)
    total = sum(single["labels"].numel() for single in singles)
    whole = model(**packed(singles, 3)).loss
    parts = [model(**single, num_items_in_batch=torch.tensor(total)).loss for single in singles]
    assert_close(sum(parts), whole)


def test_no_label_at_all_gives_no_nan_gradient(model: SmallEForSpeechGeneration) -> None:
    labels = torch.full((1, 5, 4), -100)
    output = model(
        input_ids=random_text(model.config, 5), decoder_input_ids=random_columns(model.config, 5), labels=labels
    )
    assert torch.isfinite(output.loss)
    assert (output.codebook_losses == 0).all()


def test_decoder_inputs_are_made_from_labels(model: SmallEForSpeechGeneration) -> None:
    delayed = apply_delay(random_codes(model.config, 6), model.config)
    text, labels = random_text(model.config, 5), delayed[:, 1:]
    expected = model(input_ids=text, decoder_input_ids=delayed[:, :-1], labels=labels)
    assert torch.equal(model(input_ids=text, labels=labels).logits, expected.logits)
    padded = torch.cat([labels, torch.full_like(labels[:, :3], -100)], dim=1)
    torch.testing.assert_close(model(input_ids=text, labels=padded).loss, expected.loss)


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


# Training


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(
    model: SmallEForSpeechGeneration, use_reentrant: bool
) -> None:
    row = packed(utterances(model), 2)
    model.train()
    model(**row).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        model.enable_input_require_grads()
    assert model.is_gradient_checkpointing
    model(**row).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=lambda m, name=name: f"{name}: {m}")


def test_every_parameter_learns(model: SmallEForSpeechGeneration) -> None:
    model(**packed(utterances(model), 2)).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_fresh_weights_predict_uniformly_and_learn(model: SmallEForSpeechGeneration) -> None:
    torch.manual_seed(0)
    fresh = SmallEForSpeechGeneration(model.config)
    row = packed(utterances(fresh), 0)
    optimizer = torch.optim.AdamW(fresh.parameters(), lr=1e-2)
    first = fresh(**row).loss
    assert first.item() == pytest.approx(torch.tensor(fresh.config.audio_vocab_size).log().item(), rel=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        loss = fresh(**row).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.6 * first


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains(model: SmallEForSpeechGeneration, dtype: torch.dtype) -> None:
    row = packed(utterances(model), 2)
    model.to(dtype).train()
    loss = model(**row).loss
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_autocast_is_close(model: SmallEForSpeechGeneration) -> None:
    row = packed(utterances(model), 2)
    expected = model(**row)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**row)
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
