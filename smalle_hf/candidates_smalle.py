"""Several utterances of each text, of which the one whose alignment reads the text best is kept."""

from numbers import Integral
from typing import Any

import torch

from .alignment_scores import SEED_STRIDE, choose_candidates, score_alignment
from .outputs_smalle import SmallEGenerateOutput
from .sampling_smalle import Generators


def check_candidate_options(options: dict[str, Any]) -> int:
    """Number of candidates that the options of `generate` ask for.

    Args:
        options (`dict`): Arguments of `generate` on top of those of its generation configuration.

    Raises:
        ValueError: It is no positive number, or the utterances are not sampled, or several of each text are returned.
    """
    num_candidates = options.get("num_candidates") or 1
    if not isinstance(num_candidates, int) or num_candidates < 1:
        raise ValueError(f"`num_candidates` must be a whole number of at least 1, got {num_candidates}.")
    num_return_sequences = options.get("num_return_sequences") or 1
    if num_candidates > 1 and num_return_sequences > 1:
        raise ValueError(
            f"`num_candidates` ({num_candidates}) keeps one utterance of each text, `num_return_sequences` "
            f"({num_return_sequences}) returns several: leave one of them out."
        )
    if num_candidates > 1 and not options.get("do_sample"):
        raise ValueError("Without sampling all candidates are the same: set `do_sample=True`, or leave them out.")
    return num_candidates


def expand_randomness(
    generator: Generators, seed: int | list[int] | None, num_rows: int, num_candidates: int
) -> tuple[Generators, list[int] | int | None]:
    """Sources of randomness for the candidates of each text, from those for the texts.

    The first candidate of a seeded text draws what the text draws without candidates, and a text draws in any batch
    what it draws alone. Of a list of generators, each serves the candidates of its text in turn.

    Args:
        generator (`torch.Generator` or a list of B of them, *optional*): As `generate` takes it.
        seed (`int` or a list of B, *optional*): As `generate` takes it.
        num_rows (`int`): Texts B.
        num_candidates (`int`): Candidates N of each.

    Returns:
        Generator (or B * N of them) and seed (or B * N of them), candidates of one text side by side.

    Raises:
        ValueError: The number of generators or seeds is not that of the texts.
    """
    if num_candidates == 1:
        return generator, seed
    for given in (generator, seed):
        if isinstance(given, (list, tuple)) and len(given) != num_rows:
            raise ValueError(f"Pass one generator or seed for each of the {num_rows} texts, got {len(given)}.")
    if isinstance(generator, (list, tuple)):
        generator = [entry for entry in generator for _ in range(num_candidates)]
    if seed is not None:
        seeds = [seed + row for row in range(num_rows)] if isinstance(seed, (int, Integral)) else seed
        seed = [number + SEED_STRIDE * candidate for number in seeds for candidate in range(num_candidates)]
    return generator, seed


def score_alignments(
    alignments: torch.Tensor,
    frame_lengths: torch.Tensor,
    is_finished: torch.Tensor,
    required_tokens: torch.Tensor,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """How well utterances read their text, by their alignments alone.

    The score is 1 minus the share of the text that went wrong, counted in text tokens over the required ones:

        missed     required tokens that no frame attends to: skipped, or never reached
        repeated   required tokens that the alignment visits again
        backward   the furthest that the position ever falls behind what it had reached
        end        tokens between the one attended to at the end and the last required one

    Each is at most the whole text. An utterance that met its limit before it ended gets 4 less, which puts it behind
    every one that ended. A faultless utterance scores just below 1, for the position always moves a little.

    The authors' released heuristic needs a whole pool: it drops the half whose alignments move backwards most, then
    the shortest half. It has no notion of a text that is left unfinished.

    Args:
        alignments (`torch.Tensor` of shape `(B, T, S)`): Weight of every text token at every frame.
        frame_lengths (`torch.LongTensor` of shape `(B,)`): Frames of each utterance.
        is_finished (`torch.BoolTensor` of shape `(B,)`): Utterances that ended by themselves.
        required_tokens (`torch.BoolTensor` of shape `(B, S)`): Tokens that shall be spoken.
        start (`torch.Tensor` of shape `(B,)`, *optional*): Token at which each utterance shall begin, where it goes on
            from earlier speech; tokens before it are not required, and going there counts as backward. The beginning
            of the text when `None`.

    Returns:
        `torch.FloatTensor` of shape `(B,)`: Scores; the higher the better, at most 1.
    """
    starts = [None] * len(alignments) if start is None else start.tolist()
    weights, required = alignments.detach().float().cpu().numpy(), required_tokens.cpu().numpy()
    rows = zip(weights, frame_lengths.tolist(), is_finished.tolist(), required, starts, strict=True)
    scores = [score_alignment(row[:length], finished, tokens, first) for row, length, finished, tokens, first in rows]
    return torch.tensor(scores, device=alignments.device)


def keep_best(
    output: SmallEGenerateOutput,
    limits: torch.Tensor,
    attention_mask: torch.Tensor | None,
    goes_on: bool,
    generation_config: Any,
) -> tuple[SmallEGenerateOutput, torch.Tensor]:
    """Reduces the candidates of each text to the best one.

    Args:
        output ([`SmallEGenerateOutput`]): B * N utterances with alignments, those of one text side by side.
        limits (`torch.LongTensor` of shape `(B * N,)`): Frames that each may have.
        attention_mask (`torch.Tensor` of shape `(B * N, S)`, *optional*): 1 for text, 0 for padding.
        goes_on (`bool`): Whether the utterances follow a voice prompt or earlier speech, and so begin somewhere in
            the text: where the median of its candidates does.
        generation_config (`GenerationConfig`): Gives the number of candidates N and whether to return alignments.

    Returns:
        The output of B utterances, with `candidate_scores`, and their limits. As they are if N is 1.
    """
    num_candidates = generation_config.num_candidates
    if num_candidates == 1:
        return output, limits
    alignments: Any = output.alignments
    lengths: Any = output.sequence_lengths
    is_finished: Any = output.is_finished
    mask = torch.ones(alignments.shape[0], alignments.shape[2]) if attention_mask is None else attention_mask
    weights, sizes, ends, words = (
        tensor.cpu().numpy() for tensor in (alignments.float(), lengths, is_finished, mask.bool())
    )
    found = choose_candidates(weights, sizes, ends, words, goes_on, num_candidates)
    scores, chosen = (torch.from_numpy(array).to(alignments.device) for array in found)
    best: Any = SmallEGenerateOutput(**{name: _take_rows(value, chosen) for name, value in output.items()})
    num_frames = int(lengths[chosen].max())
    best.sequences = best.sequences[:, :num_frames]
    best.alignments = best.alignments[:, :num_frames] if generation_config.return_alignments else None
    best.candidate_scores = scores
    return best, limits[chosen]


def _take_rows(value: Any, rows: torch.Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(entry[rows] for entry in value)
    return value[rows]


__all__ = ["check_candidate_options", "expand_randomness", "keep_best", "score_alignments"]
