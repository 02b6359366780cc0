"""Training: packed utterances, the loss, gradients, gradient checkpointing, half precision."""

import pytest
import torch
from core_models import assert_close, lively_model, random_codes, random_columns, random_text, small_config
from torch.nn import functional as F

from smalle_hf import SmallECache, SmallEForSpeechGeneration, apply_delay

CROSS_ATTENTIONS = ["paca", "standard"]


@pytest.fixture(params=CROSS_ATTENTIONS)
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return lively_model(small_config(cross_attention=request.param))


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


def test_codebooks_weigh_in_the_loss_by_their_ratios(model: SmallEForSpeechGeneration) -> None:
    row = utterances(model)[1]
    plain = model(**row)
    model.config.codebook_loss_weights = [6.0] + [2.0] * (model.config.num_codebooks - 1)
    weighted = model(**row)
    counts = (row["labels"] != -100).sum(dim=(0, 1)).float()
    weights = torch.tensor(model.config.codebook_loss_weights)
    nats = plain.codebook_losses * counts * weights / weights.mean()
    assert_close(weighted.loss, nats.sum() / counts.sum(), 1e-6)
    assert_close(weighted.codebook_losses, plain.codebook_losses, 1e-6)
    model.config.codebook_loss_weights = [5.0] * model.config.num_codebooks
    assert_close(model(**row).loss, plain.loss, 1e-6)


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
