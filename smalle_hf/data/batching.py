"""Token-budget batches of utterances of similar length, planned a whole epoch at a time (paper section 3.2)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler


class BucketBatchSampler(Sampler[list[int]]):
    """Batches that hold about `tokens_per_batch` frames of utterances of similar length.

    Rows are ranked by length and the ranking is divided into `num_buckets` buckets of as many rows. In every epoch
    each row moves by a random part of a bucket, at most `jitter` of it, and batches are runs of the ranking:
    neighbours are of similar length, but other neighbours each time. Where the runs are cut follows from the lengths
    alone, so that every epoch has the same number of batches and learning rate schedules can rely on it. The order of
    the batches is shuffled over the whole epoch.

    A plan depends on the arguments and the epoch only: every rank computes it alone, and a resumed run finds it again.
    Each row is in exactly one batch of an epoch. The number of batches is a multiple of `num_replicas`: where it would
    not be, the batches of the most rows are halved.

    One sampler serves all ranks. It yields the batches of all of them, step by step, for the wrapper that
    `accelerator.prepare` puts around the sampler of a `DataLoader` to deal out. With several processes set
    `DataLoaderConfiguration(even_batches=False)`, as Accelerate asks for batches of varying size. `set_epoch` of the
    prepared loader reaches this sampler.

    Args:
        lengths (array of shape `(N,)`, integers): Length of every row in frames.
        tokens_per_batch (`int`, defaults to 80000): Most frames in a batch, padding included: rows times longest row.
            A token is one frame with all its codebooks. The paper says "about 80,000 tokens" and not whether a token
            is a frame or one of its 4 codes; in the second reading its value here is 20,000.
        num_buckets (`int`, defaults to 10): Buckets of the length distribution, the paper's value.
        jitter (`float`, defaults to 0.25): How far a row moves in the ranking, in buckets. More mixes more and pads
            more: with 10 buckets on lengths like LibriLight's 0.25 pads 2 % of the frames, 1.0 pads 8 %.
        seed (`int`, defaults to 0): Seed of all plans.
        num_replicas (`int`, defaults to 1): Processes that train together, `accelerator.num_processes`.

    Raises:
        ValueError: There are no rows, a row has no frame or more than `tokens_per_batch`, or the rows cannot be shared
            out evenly because there are too few.

    Example:

    ```python
    sampler = BucketBatchSampler(cache.num_frames, num_replicas=accelerator.num_processes)
    loader = accelerator.prepare(DataLoader(cache, batch_sampler=sampler, collate_fn=collator))
    loader.set_epoch(epoch)
    sampler.resume_at(epoch, step)  # only to continue inside an epoch
    ```
    """

    def __init__(
        self,
        lengths: ArrayLike,
        *,
        tokens_per_batch: int = 80_000,
        num_buckets: int = 10,
        jitter: float = 0.25,
        seed: int = 0,
        num_replicas: int = 1,
    ) -> None:
        lengths = np.asarray(lengths)
        if lengths.ndim != 1 or not len(lengths) or not np.issubdtype(lengths.dtype, np.integer):
            raise ValueError(f"`lengths` must be a row of integers, got {lengths.dtype} of shape {lengths.shape}.")
        if num_buckets < 1 or not 0 <= jitter <= num_buckets or num_replicas < 1:
            raise ValueError(
                f"Need num_buckets, num_replicas >= 1 and 0 <= jitter <= num_buckets, got {num_buckets=}, "
                f"{num_replicas=}, {jitter=}."
            )
        if lengths.min() < 1 or lengths.max() > tokens_per_batch:
            row = int(lengths.argmin() if lengths.min() < 1 else lengths.argmax())
            raise ValueError(
                f"Row {row} has {lengths[row]} frames, but a batch holds 1 to {tokens_per_batch}: filter it "
                "out or change `tokens_per_batch`."
            )
        self.seed = seed
        self.epoch = 0
        self.num_replicas = num_replicas
        # Accelerate reads `batch_size`: None means that it varies.
        self.batch_size = None
        self.drop_last = False
        # Stable: all ranks must agree on the order of equal lengths, whatever sort their processors prefer.
        ranking = np.argsort(-lengths.astype(np.int64), kind="stable")
        self._reach = int(np.ceil(len(lengths) * jitter / num_buckets))
        self._cuts = split_to_multiple(cut_runs(lengths[ranking], tokens_per_batch, self._reach), num_replicas)
        self._ranking = ranking.astype(np.int32 if len(ranking) < 2**31 else np.int64)
        self._resume_point: tuple[int, int] | None = None

    @property
    def sampler(self) -> "BucketBatchSampler":
        """This sampler: Accelerate's wrappers look for `set_epoch` at `batch_sampler.sampler`."""
        return self

    def __len__(self) -> int:
        """Batches in an epoch over all replicas: the same in every epoch."""
        return len(self._cuts) - 1

    def set_epoch(self, epoch: int) -> None:
        """Chooses the plan that the next iteration follows."""
        self.epoch = epoch

    def resume_at(self, epoch: int, step: int) -> None:
        """Makes the next iteration begin inside an epoch, at no cost. The one after it begins at the start again.

        Tell a prepared loader the epoch as well (`loader.set_epoch(epoch)`): it overwrites the sampler's.

        Args:
            epoch (`int`): The interrupted epoch.
            step (`int`): Batches that each replica has finished in it.

        Raises:
            ValueError: The epoch has fewer steps.
        """
        if not 0 <= step <= len(self) // self.num_replicas:
            raise ValueError(f"Cannot resume at step {step}: an epoch has {len(self) // self.num_replicas} steps.")
        self.epoch = epoch
        self._resume_point = (epoch, step)

    def plan(self, epoch: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Plans an epoch.

        Returns:
            `(rows, bounds)`: `rows` of shape `(N,)` are all row numbers, and batch i is
            `rows[bounds[i, 0] : bounds[i, 1]]`, `bounds` being of shape `(len(self), 2)`.
        """
        rng = np.random.default_rng([self.seed, epoch])
        keys = rng.random(len(self._ranking))
        keys *= self._reach
        keys += np.arange(len(keys))
        rows = self._ranking[np.argsort(keys, kind="stable")]
        bounds = np.stack([self._cuts[:-1], self._cuts[1:]], axis=1)
        return rows, bounds[rng.permutation(len(bounds))]

    def __iter__(self) -> Iterator[list[int]]:
        epoch, step = self._resume_point or (self.epoch, 0)
        if epoch != self.epoch:
            raise RuntimeError(f"Resuming in epoch {epoch}, but the loader is at {self.epoch}: call its `set_epoch`.")
        self._resume_point = None
        rows, bounds = self.plan(epoch)
        for start, stop in bounds[step * self.num_replicas :]:
            yield rows[start:stop].tolist()


def cut_runs(lengths: NDArray[np.integer], budget: int, reach: int) -> NDArray[np.int64]:
    """Cuts a ranking into runs that stay within a budget whichever way rows move by up to `reach` places.

    Args:
        lengths (array of shape `(N,)`): Lengths from the longest to the shortest, the longest at most `budget`.
        budget (`int`): Most rows times longest row of a run.
        reach (`int`): Places by which a row may move.

    Returns:
        Array of shape `(runs + 1,)`: run i is `cuts[i]` to `cuts[i + 1]`.
    """
    places = np.arange(len(lengths))
    longest = lengths[np.maximum(places - reach, 0)]  # that may come to stand at a place
    next_cut = np.minimum(places + budget // longest, len(lengths)).data
    cuts = [0]
    while cuts[-1] < len(lengths):
        cuts.append(next_cut[cuts[-1]])
    return np.array(cuts, dtype=np.int64)


def split_to_multiple(cuts: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    """Halves the runs of the most rows until there is a multiple of `multiple` of them.

    Args:
        cuts (array of shape `(runs + 1,)`): Runs as [`cut_runs`] gives them.
        multiple (`int`): What the number of runs shall be a multiple of.

    Raises:
        ValueError: All runs are single rows before the number fits.
    """
    sizes = np.diff(cuts).tolist()
    while len(sizes) % multiple:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        if sizes[largest] == 1:
            raise ValueError(
                f"{len(sizes)} rows cannot be shared out evenly to {multiple} replicas: take fewer replicas or more "
                "data."
            )
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [sizes[largest] - half, half]
    return np.concatenate([[0], np.cumsum(sizes)])


__all__ = ["BucketBatchSampler"]
