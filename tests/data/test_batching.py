"""Bucket batches: every row once, the same steps on every rank, a pure function of seed and epoch, little padding."""

import numpy as np
import pytest
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from smalle_hf.data.batching import BucketBatchSampler

BUDGET = 80_000


def librilight_lengths(num_rows, seed=0):
    """Frames at 75 Hz of segments of 2 to 31 s, 14.8 s in the mean."""
    seconds = 2 + 29 * np.random.default_rng(seed).beta(2.1, 2.66, num_rows)
    return (75 * seconds).astype(np.int32)


def padding(lengths, batches):
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    return 1 - lengths[np.concatenate(batches)].sum() / padded


def shards(sampler, num_replicas):
    """Batches of every rank, dealt out as Accelerate does."""
    return [list(BatchSamplerShard(sampler, num_replicas, rank, even_batches=False)) for rank in range(num_replicas)]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=300),
    budget=st.integers(100, 2000),
    num_buckets=st.integers(1, 20),
    jitter=st.floats(0, 1),
    num_replicas=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
)
def test_every_row_is_in_one_batch_of_one_rank(lengths, budget, num_buckets, jitter, num_replicas, seed, epoch):
    lengths = np.array(lengths)
    options = {"tokens_per_batch": budget, "num_buckets": num_buckets, "jitter": jitter, "seed": seed}
    try:
        sampler = BucketBatchSampler(lengths, num_replicas=num_replicas, **options)
    except ValueError:
        # Legitimate only where even batches of single rows do not make a multiple of the ranks.
        num_batches = len(BucketBatchSampler(lengths, **options))
        assert -(-num_batches // num_replicas) * num_replicas > len(lengths)
        return
    sampler.set_epoch(epoch)
    ranks = shards(sampler, num_replicas)
    assert {len(batches) for batches in ranks} == {len(sampler) // num_replicas}
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert all(len(batch) * lengths[batch].max() <= budget for batches in ranks for batch in batches)


def test_plans_depend_on_seed_and_epoch_alone():
    lengths = librilight_lengths(3000)
    first = BucketBatchSampler(lengths, seed=1)
    epochs = [list(first), list(first)]
    assert epochs[0] == epochs[1]
    first.set_epoch(5)
    fifth = list(first)
    assert fifth != epochs[0]
    other = BucketBatchSampler(lengths.tolist(), seed=1)
    other.set_epoch(5)
    assert list(other) == fifth
    assert list(BucketBatchSampler(lengths, seed=2)) != epochs[0]


def test_batches_are_composed_anew_in_every_epoch_and_their_number_stays():
    sampler = BucketBatchSampler(librilight_lengths(20_000), num_replicas=3)
    compositions = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        compositions.append({frozenset(batch) for batch in batches})
    assert not compositions[0] & compositions[1]
    assert not compositions[1] & compositions[2]


@pytest.mark.parametrize("num_replicas", [1, 8])
def test_padding_is_below_five_percent_on_lengths_like_librilight(num_replicas):
    lengths = librilight_lengths(20_000)
    assert abs(lengths.mean() / 75 - 14.8) < 0.1
    batches = list(BucketBatchSampler(lengths, num_replicas=num_replicas))
    assert padding(lengths, batches) < 0.05
    frames = np.array([lengths[batch].sum() for batch in batches])
    assert frames.max() <= BUDGET
    assert frames.mean() > 0.9 * BUDGET


def test_equal_lengths_fill_batches_to_the_budget():
    batches = list(BucketBatchSampler([100] * 1000, tokens_per_batch=1000))
    assert {len(batch) for batch in batches} == {10}


@pytest.mark.parametrize("num_replicas", [1, 2])
def test_resuming_continues_where_the_epoch_was_left(num_replicas):
    sampler = BucketBatchSampler(librilight_lengths(5000), num_replicas=num_replicas)
    sampler.set_epoch(3)
    whole = shards(sampler, num_replicas)
    for rank in range(num_replicas):
        sampler.set_epoch(0)
        sampler.resume_at(3, 7)
        shard = BatchSamplerShard(sampler, num_replicas, rank, even_batches=False)
        assert list(shard) == whole[rank][7:]
        assert list(shard) == whole[rank]


def test_resuming_refuses_another_epoch_and_a_step_too_far():
    sampler = BucketBatchSampler([10] * 10, tokens_per_batch=20)
    sampler.resume_at(1, 2)
    sampler.set_epoch(0)
    with pytest.raises(RuntimeError, match="set_epoch"):
        next(iter(sampler))
    with pytest.raises(ValueError, match="5 steps"):
        sampler.resume_at(0, 6)


class Numbers:
    """Data set whose row i is i."""

    def __getitem__(self, row):
        return row


def loaders(sampler, num_replicas):
    """What `accelerator.prepare` makes of a loader in each of several processes."""
    return [
        prepare_data_loader(
            DataLoader(Numbers(), batch_sampler=sampler, collate_fn=list),
            num_processes=num_replicas,
            process_index=rank,
            put_on_device=False,
            even_batches=False,
        )
        for rank in range(num_replicas)
    ]


@pytest.mark.parametrize("num_replicas", [1, 2, 3])
def test_prepared_loaders_hear_the_epoch_and_resume(num_replicas):
    lengths = librilight_lengths(5000)
    for rank in range(num_replicas):
        sampler = BucketBatchSampler(lengths, num_replicas=num_replicas)
        loader = loaders(sampler, num_replicas)[rank]
        loader.set_epoch(4)
        fourth = list(loader)
        fifth = list(loader)  # a loader counts its epochs itself
        assert fourth != fifth

        fresh = BucketBatchSampler(lengths, num_replicas=num_replicas)
        fresh.set_epoch(4)
        assert fourth == shards(fresh, num_replicas)[rank]
        resumed = loaders(fresh, num_replicas)[rank]
        resumed.set_epoch(4)
        fresh.resume_at(4, 5)
        assert list(resumed) == fourth[5:]
        assert list(resumed) == fifth
        resumed.set_epoch(4)
        assert list(skip_first_batches(resumed, 5)) == fourth[5:]


def test_accelerator_prepares_the_loader():
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False))
    sampler = BucketBatchSampler(librilight_lengths(1000), num_replicas=accelerator.num_processes)
    loader = accelerator.prepare(DataLoader(Numbers(), batch_sampler=sampler, collate_fn=list))
    loader.set_epoch(2)
    batches = list(loader)
    assert len(loader) == len(sampler) == len(batches)
    sampler.set_epoch(2)
    assert batches == list(sampler)


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ([], {}, "row of integers"),
        ([1.5], {}, "row of integers"),
        ([[1]], {}, "row of integers"),
        ([5, 0], {}, "Row 1 has 0 frames"),
        ([5, 90_000], {}, "Row 1 has 90000 frames"),
        ([5], {"num_buckets": 0}, "num_buckets"),
        ([5], {"jitter": -0.1}, "jitter"),
        ([5, 5], {"num_replicas": 3}, "3 replicas"),
    ],
)
def test_refuses_what_cannot_be_batched(lengths, options, message):
    with pytest.raises(ValueError, match=message):
        BucketBatchSampler(lengths, **options)
