"""Several utterances of each text, of which the one whose alignment reads the text best is kept. As
`candidates_smalle.py`, with the same scores."""

from collections.abc import Sequence

import numpy as np

from ..alignment_scores import SEED_STRIDE, choose_candidates
from .outputs import SmallEOnnxOutput
from .sampling import Sampling

Inputs = tuple[np.ndarray, np.ndarray, list[np.ndarray]]
"""Text ids `(B, S)`, their mask and the voice prompt of each row `(T_i, Q)`."""


def check_candidates(num_candidates: int, sampling: Sampling) -> None:
    """Refuses numbers of candidates that make no sense.

    Raises:
        ValueError: It is no positive whole number, or nothing is sampled.
    """
    if not isinstance(num_candidates, int) or num_candidates < 1:
        raise ValueError(f"`num_candidates` must be a whole number of at least 1, got {num_candidates}.")
    if num_candidates > 1 and not sampling.num_sampled_codebooks:
        raise ValueError("Without sampling all candidates are the same: set `do_sample=True`, or leave them out.")


def expand_inputs(inputs: Inputs, num_candidates: int) -> Inputs:
    """The same for the candidates, those of one text side by side."""
    ids, mask, prompts = inputs
    repeated = [prompt for prompt in prompts for _ in range(num_candidates)]
    return np.repeat(ids, num_candidates, axis=0), np.repeat(mask, num_candidates, axis=0), repeated


def expand_seeds(seed: int | Sequence[int] | None, num_rows: int, num_candidates: int) -> int | list[int] | None:
    """Seeds of the candidates; the first one of a text draws what the text draws without candidates.

    Raises:
        ValueError: There is not one seed for each text.
    """
    if seed is None:
        return None
    seeds = [seed + row for row in range(num_rows)] if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != num_rows:
        raise ValueError(f"Pass one seed for each of the {num_rows} utterances, got {len(seeds)}.")
    return [int(number) + SEED_STRIDE * candidate for number in seeds for candidate in range(num_candidates)]


def keep_best(
    output: SmallEOnnxOutput, inputs: Inputs, num_candidates: int, return_alignments: bool
) -> SmallEOnnxOutput:
    """Reduces the candidates of each text to the best one.

    Args:
        output ([`SmallEOnnxOutput`]): B * N utterances with alignments, those of one text side by side.
        inputs: Those of the B texts.
        num_candidates (`int`): Candidates N of each.
        return_alignments (`bool`): Whether to keep the alignments.
    """
    assert output.alignments is not None
    mask, goes_on = np.repeat(inputs[1], num_candidates, axis=0).astype(bool), any(map(len, inputs[2]))
    scores, chosen = choose_candidates(
        output.alignments, output.sequence_lengths, output.is_finished, mask, goes_on, num_candidates
    )
    lengths = output.sequence_lengths[chosen]
    num_frames = int(lengths.max(initial=0))
    return SmallEOnnxOutput(
        sequences=output.sequences[chosen, :num_frames],
        sequence_lengths=lengths,
        is_finished=output.is_finished[chosen],
        alignments=output.alignments[chosen, :num_frames] if return_alignments else None,
        candidate_scores=scores,
    )


__all__ = ["check_candidates", "expand_inputs", "expand_seeds", "keep_best"]
