"""Token caches as training reads them: which utterances are used, in which batches, and what they are."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Generator
from torch.utils.data import DataLoader, Subset

from ..data.batching import BucketBatchSampler
from ..data.collator import SmallECollator
from ..data.token_cache import CodecInfo, TokenCache, shard_paths
from .arguments import ArgumentsError, TrainingArguments

TOKENIZER_TEXTS = 200_000
"""Most texts that a tokenizer is trained on: more of them change nothing in a vocabulary of this size."""


@dataclass(frozen=True)
class Corpus:
    """Utterances of one cache that are used.

    Args:
        folder (`Path`): The token cache.
        cache ([`TokenCache`]): All its rows.
        rows (array of shape `(N,)`): Numbers of the rows that are used.
        left_out (`Counter`): How many are not, by reason.
    """

    folder: Path
    cache: TokenCache
    rows: NDArray[np.int64]
    left_out: Counter[str]

    @property
    def codec(self) -> CodecInfo:
        """What made the codes."""
        return self.cache.codec

    @property
    def num_frames(self) -> NDArray[np.int32]:
        """Frames of every utterance, of shape `(N,)`."""
        return self.cache.num_frames[self.rows]

    @property
    def hours(self) -> float:
        """Duration of all utterances."""
        return float(self.num_frames.sum(dtype=np.int64)) / self.codec.frame_rate / 3600

    def fingerprint(self) -> str:
        """Changes if other utterances are used or lie in another order."""
        return hashlib.sha256(self.rows.tobytes() + self.num_frames.tobytes()).hexdigest()[:16]

    def texts(self, limit: int | None = None) -> list[str]:
        """Texts of the utterances, at most `limit` of them, evenly spread."""
        rows = self.rows
        if limit is not None and len(rows) > limit:
            rows = rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
        return read_column(self.folder, "text").take(rows).to_pylist()

    def counts(self, column: str) -> Counter[str]:
        """How many utterances have each value of `speaker`, `language` or `licence`; unknown ones are left out."""
        counted = pc.value_counts(read_column(self.folder, column).take(self.rows).drop_null())
        return Counter({item["values"]: item["counts"] for item in counted.to_pylist()})


def read_column(folder: Path, name: str) -> Any:
    """Reads one column of a token cache as an Arrow array."""
    return pq.read_table(shard_paths(folder), columns=[name])[name]


def open_corpus(folder: str, arguments: TrainingArguments) -> Corpus:
    """Opens a token cache and chooses its usable utterances.

    Args:
        folder (`str`): Token cache.
        arguments ([`TrainingArguments`]): Which utterances are too short or too long.

    Raises:
        ArgumentsError: There is no such folder, or no usable utterance in it.
        TokenCacheError: It is no token cache, or incomplete.
    """
    if not Path(folder).is_dir():
        raise ArgumentsError(f"There is no folder {folder}: make a token cache with examples/encode_dataset.py.")
    if not any(pq.read_metadata(shard).num_rows for shard in shard_paths(folder)):
        raise ArgumentsError(f"{folder} is an empty token cache: encode some speech with text.")
    cache = TokenCache(folder)
    frames = cache.num_frames
    limit = min(arguments.frames_per_batch, arguments.max_frames or arguments.frames_per_batch)
    checks = {
        "no text": pc.is_null(read_column(Path(folder), "text")).to_numpy(),
        f"fewer than {arguments.min_frames} frames": frames < arguments.min_frames,
        f"more than {limit} frames": frames > limit,
    }
    left_out = Counter({reason: int(fails.sum()) for reason, fails in checks.items() if fails.any()})
    rows = np.flatnonzero(~np.any(list(checks.values()), axis=0))
    if not len(rows):
        reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
        raise ArgumentsError(f"{folder} has no usable utterance ({reasons}): encode others or move the limits.")
    return Corpus(Path(folder), cache, rows, left_out)


def open_corpora(arguments: TrainingArguments) -> dict[str, Corpus]:
    """Opens `"training"` and, where there is any, `"validation"` data.

    Raises:
        ArgumentsError, TokenCacheError: See [`open_corpus`]; or the two were made with different codecs.
    """
    training = open_corpus(arguments.train_data, arguments)
    if arguments.held_out:
        training, validation = hold_out(training, arguments.held_out, arguments.seed)
        return {"training": training, "validation": validation}
    if arguments.validation_data is None:
        return {"training": training}
    validation = open_corpus(arguments.validation_data, arguments)
    if validation.codec != training.codec:
        raise ArgumentsError(
            f"{training.folder} and {validation.folder} come from different codecs, {training.codec} and "
            f"{validation.codec}: encode both with the same one."
        )
    return {"training": training, "validation": validation}


def hold_out(corpus: Corpus, count: int, seed: int) -> tuple[Corpus, Corpus]:
    """Takes `count` random utterances out of a corpus; the same ones for the same seed.

    Returns:
        The corpus without them, and the corpus of them alone.

    Raises:
        ArgumentsError: The corpus is too small.
    """
    if count >= len(corpus.rows):
        raise ArgumentsError(f"`held_out` ({count}) leaves nothing of the {len(corpus.rows)} utterances to train on.")
    chosen = np.zeros(len(corpus.rows), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(corpus.rows))[:count]] = True
    kept = Corpus(corpus.folder, corpus.cache, corpus.rows[~chosen], corpus.left_out)
    return kept, Corpus(corpus.folder, corpus.cache, corpus.rows[chosen], Counter())


class StepLoader:
    """Batches of a corpus, grouped by optimizer step.

    The batches of a step are the same ones however they are shared between processes and accumulation.

    Args:
        corpus ([`Corpus`]): Utterances.
        collator ([`SmallECollator`]): With `return_ids`.
        accelerator (`Accelerator`): Deals batches out to the processes.
        arguments ([`TrainingArguments`]): Batch sizes, accumulation and seed.
        accumulation (`int`): Batches per process and step.

    Raises:
        ArgumentsError: There are fewer utterances than batches in a step.
    """

    def __init__(
        self,
        corpus: Corpus,
        collator: SmallECollator,
        accelerator: Accelerator,
        arguments: TrainingArguments,
        accumulation: int,
    ) -> None:
        batches_per_step = accelerator.num_processes * accumulation
        try:
            # A multiple of a whole step, so that no step at the end of an epoch is smaller than the others.
            self._sampler = BucketBatchSampler(
                corpus.num_frames,
                tokens_per_batch=arguments.frames_per_batch,
                num_buckets=arguments.num_buckets,
                seed=arguments.seed,
                num_replicas=batches_per_step,
            )
        except ValueError as error:
            raise ArgumentsError(f"{corpus.folder}: {error}") from error
        loader = DataLoader(
            Subset(corpus.cache, corpus.rows.tolist()),
            batch_sampler=self._sampler,
            collate_fn=collator,
            num_workers=arguments.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            generator=Generator(),  # without one, workers would be seeded from the global generator
        )
        self._loader = accelerator.prepare_data_loader(loader)
        self._accumulation = accumulation
        self.steps_per_epoch = len(self._sampler) // batches_per_step

    def from_step(self, step: int) -> Iterator[tuple[dict[str, Any], ...]]:
        """Yields the batches of one step after the other on this process, for ever, beginning at any step."""
        while True:
            epoch, done = divmod(step, self.steps_per_epoch)
            yield from self.epoch(epoch, done)
            step += self.steps_per_epoch - done

    def epoch(self, epoch: int, done: int = 0) -> Iterator[tuple[dict[str, Any], ...]]:
        """Yields the batches of the steps of one epoch, without the first `done`."""
        self._sampler.resume_at(epoch, done)
        self._loader.set_epoch(epoch)
        yield from zip(*[iter(self._loader)] * self._accumulation, strict=True)


__all__ = ["TOKENIZER_TEXTS", "Corpus", "StepLoader", "hold_out", "open_corpora", "open_corpus", "read_column"]
