"""The collator against the delay pattern row by row, and packed rows against separate ones."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf.configuration_smalle import SmallEConfig
from smalle_hf.data.collator import SmallECollator
from smalle_hf.delay_pattern import apply_delay
from smalle_hf.processing_smalle import SmallEProcessor


def text_to_ids(text):
    return [1, *(3 + ord(letter) % 250 for letter in text), 2]


def make_rows(lengths, num_codebooks=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "id": f"utt-{index}",
            "text": "abcdefgh"[: rng.integers(0, 9)],
            "codes": rng.integers(0, 1024, length * num_codebooks).astype(np.int16),
            "num_codebooks": num_codebooks,
        }
        for index, length in enumerate(lengths)
    ]


def delayed_alone(row, config):
    codes = row["codes"].reshape(-1, row["num_codebooks"])[:, : config.num_codebooks]
    return apply_delay(torch.from_numpy(codes).long(), config)


delay_patterns = st.sampled_from([[0, 0, 0, 0], [0, 1, 2, 3], [3, 1, 0, 0], [0, 5, 5, 5]])
ragged = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@settings(deadline=None)
@given(lengths=ragged, delays=delay_patterns, stored=st.integers(4, 6), multiple=st.sampled_from([1, 8]))
def test_rows_are_delayed_as_alone_and_padded_on_the_right(lengths, delays, stored, multiple):
    config = SmallEConfig.from_preset("tiny", delays=delays)
    rows = make_rows(lengths, stored)
    batch = SmallECollator(config, text_to_ids, pad_to_multiple_of=multiple)(rows)
    longest = max(lengths) + config.max_delay + 1
    assert batch["labels"].shape == (len(rows), -(-longest // multiple) * multiple, 4)
    for index, row in enumerate(rows):
        delayed = delayed_alone(row, config)
        columns = len(delayed) - 1
        assert torch.equal(batch["decoder_input_ids"][index, :columns], delayed[:-1])
        assert torch.equal(batch["labels"][index, :columns], delayed[1:])
        assert (batch["decoder_input_ids"][index, columns:] == config.audio_pad_token_id).all()
        assert (batch["labels"][index, columns:] == -100).all()
        assert batch["decoder_attention_mask"][index].tolist() == [1] * columns + [0] * (
            batch["labels"].shape[1] - columns
        )
        ids = text_to_ids(row["text"])
        width = batch["input_ids"].shape[1]
        assert width % multiple == 0
        assert batch["input_ids"][index].tolist() == ids + [config.pad_token_id] * (width - len(ids))
        assert batch["attention_mask"][index].tolist() == [1] * len(ids) + [0] * (width - len(ids))
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def segments_of(ids, values):
    """Pieces of each segment of each row, by (row, segment)."""
    return {
        (row, int(segment)): values[row][ids[row] == segment]
        for row in range(len(ids))
        for segment in ids[row].unique()
        if segment > 0
    }


@settings(deadline=None)
@given(lengths=ragged, capacity=st.integers(1, 120))
def test_packed_rows_hold_every_utterance_once_with_its_text(lengths, capacity):
    config = SmallEConfig.from_preset("tiny")
    rows = make_rows(lengths)
    batch = SmallECollator(config, text_to_ids, pack_columns=capacity)(rows)
    columns = [length + config.max_delay + 1 for length in lengths]
    assert batch["labels"].shape[1] <= max(capacity, *columns)
    assert len(batch["labels"]) <= len(rows)
    for ids in (batch["segment_ids"], batch["decoder_segment_ids"]):
        for row in ids.tolist():
            used = [segment for segment in row if segment]
            assert row[: len(used)] == sorted(used)  # no hole, padding last
            assert set(used) == set(range(1, max(used) + 1))
    assert torch.equal(batch["attention_mask"], (batch["segment_ids"] > 0).long())
    assert torch.equal(batch["decoder_attention_mask"], (batch["decoder_segment_ids"] > 0).long())

    texts = segments_of(batch["segment_ids"], batch["input_ids"])
    inputs = segments_of(batch["decoder_segment_ids"], batch["decoder_input_ids"])
    labels = segments_of(batch["decoder_segment_ids"], batch["labels"])
    assert texts.keys() == inputs.keys()
    packed = [(texts[seat].tolist(), inputs[seat].tolist(), labels[seat].tolist()) for seat in texts]
    alone = [(text_to_ids(row["text"]), delayed_alone(row, config)) for row in rows]
    expected = [(ids, delayed[:-1].tolist(), delayed[1:].tolist()) for ids, delayed in alone]
    assert sorted(packed) == sorted(expected)


def test_accepts_lists_and_matrices_of_codes_and_returns_ids():
    rows = make_rows([3, 5])
    collator = SmallECollator(SmallEConfig.from_preset("tiny"), text_to_ids, return_ids=True)
    expected = collator(rows)
    assert expected["id"] == ["utt-0", "utt-1"]
    as_lists = [{**row, "codes": row["codes"].tolist()} for row in rows]
    as_matrices = [{"id": row["id"], "text": row["text"], "codes": row["codes"].reshape(-1, 4)} for row in rows]
    for variant in (as_lists, as_matrices):
        batch = collator(variant)
        assert batch.pop("id") == expected["id"]
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_texts_go_through_a_processor_or_its_tokenizer():
    config = SmallEConfig.from_preset("tiny")
    processor = SmallEProcessor.from_characters(config=config)
    rows = [{**row, "text": text} for row, text in zip(make_rows([5, 9]), ["Dr. No paid $3.", "Yes!"], strict=True)]
    expected = processor([row["text"] for row in rows])
    batch = SmallECollator(config, processor)(rows)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    spoken = [{**row, "text": processor.normalize(row["text"])} for row in rows]
    assert torch.equal(SmallECollator(config, processor.tokenizer)(spoken)["input_ids"], expected["input_ids"])


def test_large_codebooks_do_not_overflow():
    config = SmallEConfig.from_preset("tiny", codebook_size=32768)
    row = {"text": "a", "codes": np.full(4, 32767, dtype=np.int16), "num_codebooks": 4}
    assert SmallECollator(config, text_to_ids)([row])["labels"].max() == 32767 + config.codebook_offset


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": None}, ValueError, "utt-1 has no text"),
        ({"num_codebooks": 3}, ValueError, "utt-1 has codes"),
        ({"num_codebooks": 5}, ValueError, "utt-1 has codes"),
        ({"codes": []}, ValueError, "utt-1 has codes"),
        ({"codes": np.full(12, 1024, dtype=np.int16)}, ValueError, "0..1023"),
        ({"codes": np.full(12, 0.5)}, TypeError, "integer"),
    ],
)
def test_refuses_rows_that_cannot_be_trained_on(change, error, message):
    rows = make_rows([2, 3])
    rows[1] |= change
    with pytest.raises(error, match=message):
        SmallECollator(SmallEConfig.from_preset("tiny"), text_to_ids)(rows)


def model_with_packing(**overrides):
    from smalle_hf import SmallEForSpeechGeneration

    parameters = inspect.signature(SmallEForSpeechGeneration.forward).parameters
    if "segment_ids" not in parameters or "decoder_segment_ids" not in parameters:
        pytest.skip("the model does not take segment ids yet")
    torch.manual_seed(0)
    return SmallEForSpeechGeneration(SmallEConfig.from_preset("tiny", **overrides)).eval()


@pytest.mark.parametrize("cross_attention", ["paca", "standard"])
def test_packed_rows_give_the_logits_and_loss_of_separate_rows(cross_attention):
    model = model_with_packing(cross_attention=cross_attention)
    rows = make_rows([30, 7, 19, 1, 70, 23])
    packed = SmallECollator(model.config, text_to_ids, pack_columns=90)(rows)
    assert packed["decoder_segment_ids"].max() > 1
    with torch.no_grad():
        output = model(**packed)
        separate = [model(**SmallECollator(model.config, text_to_ids)([row])) for row in rows]
    logits = segments_of(packed["decoder_segment_ids"], output.logits)
    inputs = segments_of(packed["decoder_segment_ids"], packed["decoder_input_ids"])
    seat_of = {tuple(inputs[seat].flatten().tolist()): seat for seat in inputs}
    for row, alone in zip(rows, separate, strict=True):
        seat = seat_of[tuple(delayed_alone(row, model.config)[:-1].flatten().tolist())]
        torch.testing.assert_close(logits[seat], alone.logits[0], atol=1e-5, rtol=1e-5)
    cells = torch.tensor([alone.logits.shape[1] for alone in separate], dtype=torch.float)
    losses = torch.stack([alone.loss for alone in separate])
    torch.testing.assert_close(output.loss, (losses * cells).sum() / cells.sum(), atol=1e-5, rtol=1e-5)


def test_packed_gradients_equal_those_of_separate_rows():
    model = model_with_packing()
    rows = make_rows([30, 7, 19])
    cells = [len(delayed_alone(row, model.config)) - 1 for row in rows]
    model(**SmallECollator(model.config, text_to_ids, pack_columns=90)(rows)).loss.backward()
    packed = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    assert packed
    model.zero_grad()
    for row, columns in zip(rows, cells, strict=True):
        loss = model(**SmallECollator(model.config, text_to_ids)([row])).loss
        (loss * columns / sum(cells)).backward()
    for name, weight in model.named_parameters():
        if name in packed:
            torch.testing.assert_close(packed[name], weight.grad, atol=1e-5, rtol=1e-4)
