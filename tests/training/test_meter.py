"""Sums from which losses, perplexities and speeds follow."""

import math
from dataclasses import replace

import pytest
import torch
from training_runs import make_rows

from smalle_hf import SmallEConfig
from smalle_hf.data.collator import SmallECollator
from smalle_hf.modeling_smalle import compute_loss
from smalle_hf.training.flops import training_flops
from smalle_hf.training.meter import Sums, batch_sums, count_labels, perplexity

CONFIG = SmallEConfig.from_preset("tiny", codebook_size=64)


@pytest.fixture
def batch():
    return SmallECollator(CONFIG, lambda text: list(text.encode()))(make_rows(5))


def sums_of(batch, logits):
    losses = compute_loss(logits, batch["labels"])[1]
    return Sums.of(batch_sums(batch, losses).tolist())


def test_sums_of_parts_are_the_sums_of_the_whole(batch):
    torch.manual_seed(0)
    logits = torch.randn(*batch["labels"].shape, CONFIG.audio_vocab_size)
    whole = sums_of(batch, logits)
    parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 2), slice(2, 5))]
    added = sums_of(parts[0], logits[:2]) + sums_of(parts[1], logits[2:])
    assert added.losses() == pytest.approx(whole.losses())
    assert whole.loss == pytest.approx(compute_loss(logits, batch["labels"])[0].item())
    assert sum(whole.labels) == count_labels([batch]) == count_labels(parts)
    for name in ("columns", "cells", "text_tokens", "text_pairs", "cross_pairs"):
        assert getattr(added, name) == getattr(whole, name) > 0


def test_speeds_count_frames_and_codes_without_padding(batch):
    measured = replace(sums_of(batch, torch.zeros(*batch["labels"].shape, CONFIG.audio_vocab_size)), seconds=2.0)
    columns = int(batch["decoder_attention_mask"].sum())
    speeds = measured.speeds()
    assert speeds["frames_per_second"] == columns / 2
    assert speeds["tokens_per_second"] == 4 * columns / 2
    assert speeds["padding"] == pytest.approx(1 - columns / batch["decoder_attention_mask"].numel())
    assert measured.losses()["perplexity_codebook_2"] == pytest.approx(CONFIG.audio_vocab_size)


@pytest.mark.parametrize("packed", [None, 200])
def test_operations_are_those_of_the_utterances_one_by_one(packed):
    """Neither padding nor what shares a row counts."""
    rows = make_rows(7)
    batch = SmallECollator(CONFIG, lambda text: list(text.encode()), packed)(rows)
    measured = replace(sums_of(batch, torch.zeros(*batch["labels"].shape, CONFIG.audio_vocab_size)), seconds=2.0)
    expected = 0.0
    for row in rows:
        single = SmallECollator(CONFIG, lambda text: list(text.encode()))([row])
        columns, tokens = single["labels"].shape[1], single["attention_mask"].shape[1]
        expected += training_flops(CONFIG, columns, tokens, tokens**2, columns * tokens)
    assert measured.utilization(CONFIG, 1e9)["mfu"] == pytest.approx(expected / 2e9)
    assert measured.utilization(CONFIG, None) == {}


def test_perplexity_of_a_huge_loss_is_infinite():
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))
