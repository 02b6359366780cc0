"""Wrong codes among the input: how many, where, and which."""

import torch

from smalle_hf import SmallEConfig, apply_delay
from smalle_hf.training.input_noise import with_noise

CONFIG = SmallEConfig.from_preset("tiny", codebook_size=64)


def delayed() -> torch.Tensor:
    torch.manual_seed(0)
    return apply_delay(torch.randint(64, (2, 500, 4)), CONFIG)


def test_no_noise_changes_nothing_and_draws_nothing():
    ids = delayed()
    before = torch.get_rng_state()
    assert with_noise(ids, 0.0, CONFIG) is ids
    assert torch.equal(torch.get_rng_state(), before)


def test_the_share_is_replaced_and_the_input_is_not_touched():
    ids = delayed()
    kept = ids.clone()
    noisy = with_noise(ids, 0.2, CONFIG)
    assert torch.equal(ids, kept)
    changed = (noisy != ids)[ids >= CONFIG.codebook_offset].float().mean()
    assert 0.17 < changed < 0.22  # a random code is the right one now and then


def test_only_codes_are_replaced_and_only_by_codes():
    ids = delayed()
    noisy = with_noise(ids, 0.9, CONFIG)
    special = ids < CONFIG.codebook_offset
    assert torch.equal(noisy[special], ids[special])
    assert noisy[~special].min() >= CONFIG.codebook_offset
    assert noisy.max() < CONFIG.audio_vocab_size
