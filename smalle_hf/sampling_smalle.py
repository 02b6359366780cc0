"""Drawing one id per codebook from the scores of a column."""

from numbers import Integral

import torch

Generators = torch.Generator | list[torch.Generator] | None


def make_generators(
    generator: Generators, seed: int | list[int] | None, num_rows: int, device: torch.device
) -> Generators:
    """One source of randomness for all rows, or one for each.

    Args:
        generator (`torch.Generator` or a list of them, *optional*): Taken as it is.
        seed (`int` or `list[int]`, *optional*): Row i gets a generator seeded `seed + i`, or `seed[i]`.
        num_rows (`int`): Number of utterances.
        device (`torch.device`): Where the numbers are drawn.

    Raises:
        ValueError: Both are given, or their number is not that of the rows.
    """
    if generator is not None and seed is not None:
        raise ValueError("Pass `generator` or `seed`, not both.")
    if seed is not None:
        seeds = [seed + i for i in range(num_rows)] if isinstance(seed, (int, Integral)) else seed
        generator = [torch.Generator(device).manual_seed(int(number)) for number in seeds]
    if isinstance(generator, tuple):
        generator = list(generator)
    if isinstance(generator, list) and len(generator) != num_rows:
        raise ValueError(f"Pass one generator or seed for each of the {num_rows} utterances, got {len(generator)}.")
    return generator


def choose_ids(scores: torch.Tensor, num_sampled: int, generators: Generators) -> torch.Tensor:
    """The best id of every codebook, or a sample (paper section 3.3: codebook 0 is sampled, the others are not).

    Args:
        scores (`torch.Tensor` of shape `(B, Q, V)`): Processed scores.
        num_sampled (`int`): Leading codebooks that are sampled, by inversion of their distribution.
        generators (`torch.Generator` or a list of B of them, *optional*): Source of randomness.

    Returns:
        `torch.LongTensor` of shape `(B, Q)`.
    """
    ids = scores.argmax(dim=-1)
    if num_sampled == 0:
        return ids
    cumulative = scores[:, :num_sampled].softmax(dim=-1).cumsum(dim=-1)
    shape = cumulative.shape[:-1]
    if isinstance(generators, list):
        rows = [torch.rand(shape[1:], generator=g, device=g.device).to(scores.device) for g in generators]
        uniform = torch.stack(rows)
    else:
        device = scores.device if generators is None else generators.device
        uniform = torch.rand(shape, generator=generators, device=device).to(scores.device)
    # Scaled by the last sum, which rounding keeps from being exactly 1; `right` skips ids of probability 0.
    sampled = torch.searchsorted(cumulative, (uniform * cumulative[..., -1])[..., None], right=True).squeeze(-1)
    ids[:, :num_sampled] = sampled.clamp(max=scores.shape[-1] - 1)
    return ids


__all__ = ["Generators", "choose_ids", "make_generators"]
