"""Drawing one id per codebook in numpy. As `sampling_smalle.py` and the warpers of Transformers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen.

    Args:
        num_sampled_codebooks (`int`): Leading codebooks that are sampled; the later ones take the best id.
        temperature (`float`): Divisor of the scores.
        top_k (`int`): Sample from the best so many; all if 0.
        top_p (`float`): Sample from the best that together have this probability; all if 1.

    Raises:
        ValueError: A value makes no sense.
    """

    num_sampled_codebooks: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                "`temperature` must be above 0: pass `do_sample=False` for the best id of every codebook."
            )
        if self.top_k < 0:
            raise ValueError("`top_k` must be at least 0, and 0 is no limit.")
        if not 0 < self.top_p <= 1:
            raise ValueError("`top_p` must lie above 0 and be at most 1.")


def make_generators(seed: int | Sequence[int] | None, num_rows: int) -> list[np.random.Generator]:
    """A source of randomness for each row: seeded `seed + row` or `seed[row]`, or anew.

    Raises:
        ValueError: There is not one seed for each row.
    """
    if seed is None:
        return [np.random.default_rng() for _ in range(num_rows)]
    seeds = [seed + row for row in range(num_rows)] if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != num_rows:
        raise ValueError(f"Pass one seed for each of the {num_rows} utterances, got {len(seeds)}.")
    # Negative seeds are seeds as well, as for torch.
    return [np.random.default_rng(int(number) % 2**64) for number in seeds]


def choose_ids(scores: np.ndarray, sampling: Sampling, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """The best id of every codebook, or a sample.

    Args:
        scores (`np.ndarray` of shape `(B, Q, V)`): Scores; -inf rules out.
        sampling ([`Sampling`]): Which codebooks are sampled, and how.
        generators (`Sequence[np.random.Generator]`): One for each row.

    Returns:
        `np.ndarray` of shape `(B, Q)`, int64.
    """
    ids = scores.argmax(axis=-1)
    count = sampling.num_sampled_codebooks
    if not count:
        return ids
    weights = _probabilities(scores[:, :count].astype(np.float64) / sampling.temperature, sampling)
    cumulative = weights.cumsum(axis=-1)
    uniform = np.stack([generator.random(count) for generator in generators])
    # By inversion. Scaled by the sum of the weights; an id of weight 0 is never reached.
    ids[:, :count] = (cumulative <= (uniform * cumulative[..., -1])[..., None]).sum(axis=-1)
    return ids


def _probabilities(scores: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Weights of the ids, in proportion to their probability; 0 for those that are left out."""
    if 0 < sampling.top_k < scores.shape[-1]:
        least = np.partition(scores, -sampling.top_k, axis=-1)[..., -sampling.top_k, None]
        scores = np.where(scores < least, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    if sampling.top_p < 1:
        order = np.argsort(-weights, axis=-1, kind="stable")
        ordered = np.take_along_axis(weights, order, axis=-1)
        # The first id that reaches the share is still in it.
        before = ordered.cumsum(axis=-1) - ordered
        ordered = np.where(before < sampling.top_p * ordered.sum(axis=-1, keepdims=True), ordered, 0.0)
        np.put_along_axis(weights, order, ordered, axis=-1)
    return weights


__all__ = ["Sampling", "choose_ids", "make_generators"]
