"""What a PACA alignment tells: whether every word is spoken, once and in order, and when.

An alignment is the second attention map of the position-aware cross-attention: a tensor `(B, T, S)` whose row t says
where in the text of S tokens the model is at frame t. Two readings of a row are used:

    position   the expected token index, a real number: smooth, good for measuring how far the alignment moves back
    path       the most attended token, an integer, after a median filter over time: sharp, good for skips and repeats

A token counts as attended if at some frame its weight reaches a share of that frame's largest weight. The share is
relative because the map may be wide: with a wide map no token ever gets much weight, and still each has its turn.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from .file_replacement import replace_file


@dataclass(frozen=True)
class AlignmentReport:
    """What [`analyze_alignment`] finds, one entry per utterance of the batch.

    Attributes:
        positions (`torch.FloatTensor` of shape `(B, T)`): Expected token index at each frame; 0 at padded frames.
        path (`torch.LongTensor` of shape `(B, T)`): Most attended token at each frame, median-filtered; padded frames
            repeat the last one.
        backward_total (`torch.FloatTensor` of shape `(B,)`): Sum of all backward movements of the position, in
            tokens.
        backward_max (`torch.FloatTensor` of shape `(B,)`): Largest distance of the position behind the furthest
            point it had reached before, in tokens. A slow drift back and a jump back measure the same.
        completeness (`torch.FloatTensor` of shape `(B,)`): Share of the required tokens that are attended, 0 to 1.
        attended (`torch.BoolTensor` of shape `(B, S)`): Required tokens that are attended at some frame.
        skipped (`torch.BoolTensor` of shape `(B, S)`): Required tokens never attended although a later one is.
        unfinished (`torch.BoolTensor` of shape `(B, S)`): Required tokens behind the last attended one: speech
            stopped early.
        repeated (`torch.BoolTensor` of shape `(B, S)`): Required tokens visited again after the path had passed them.
        skipped_runs (`torch.LongTensor` of shape `(B,)`): Runs of skipped tokens, each at least `min_run` long.
        repeated_runs (`torch.LongTensor` of shape `(B,)`): Returns of the path to earlier text, by at least
            `min_run` tokens.
        ends_at_last_token (`torch.BoolTensor` of shape `(B,)`): Whether the path ends within `end_tolerance` tokens of
            the last required token.
    """

    positions: torch.Tensor
    path: torch.Tensor
    backward_total: torch.Tensor
    backward_max: torch.Tensor
    completeness: torch.Tensor
    attended: torch.Tensor
    skipped: torch.Tensor
    unfinished: torch.Tensor
    repeated: torch.Tensor
    skipped_runs: torch.Tensor
    repeated_runs: torch.Tensor
    ends_at_last_token: torch.Tensor


def analyze_alignment(
    alignment: torch.Tensor,
    frame_lengths: torch.Tensor | None = None,
    token_lengths: torch.Tensor | None = None,
    required_tokens: torch.Tensor | None = None,
    *,
    min_run: int = 2,
    attended_share: float = 0.5,
    median_window: int = 5,
    end_tolerance: int = 1,
) -> AlignmentReport:
    """Finds skips, repeats, backward movement and an early end in a batch of alignments.

    Args:
        alignment (`torch.Tensor` of shape `(B, T, S)`): Attention over the text tokens at each frame, non-negative.
        frame_lengths (`torch.Tensor` of shape `(B,)`, *optional*): Frames of each utterance; T when `None`.
        token_lengths (`torch.Tensor` of shape `(B,)`, *optional*): Text tokens of each utterance; S when `None`.
        required_tokens (`torch.BoolTensor` of shape `(B, S)` or `(S,)`, *optional*): Tokens that must be spoken, for
            example those of words and not the special ones; all of them when `None`.
        min_run (`int`, defaults to 2): Tokens that a run must have to count as skipped or repeated; shorter ones are
            noise of the most attended token.
        attended_share (`float`, defaults to 0.5): Share of a frame's largest weight that makes a token attended.
        median_window (`int`, defaults to 5): Frames of the median filter over the path, odd; 1 switches it off. It
            keeps every monotonic path as it is and takes out glitches shorter than half of it.
        end_tolerance (`int`, defaults to 1): Tokens before the last required one at which the speech may end.

    Returns:
        [`AlignmentReport`]

    Raises:
        ValueError: A shape or a value does not fit.
    """
    if median_window < 1 or median_window % 2 == 0:
        raise ValueError(f"`median_window` ({median_window}) must be odd and positive.")
    if min_run < 1:
        raise ValueError(f"`min_run` ({min_run}) must be at least 1.")
    frame_mask, token_mask = _masks(alignment, frame_lengths, token_lengths)
    required = token_mask if required_tokens is None else token_mask & required_tokens.to(token_mask)
    weights = alignment.detach().float() * frame_mask[..., None] * token_mask[:, None]

    positions = expected_positions(weights)
    path = median_path(weights.argmax(dim=-1), frame_mask, median_window)
    backward_total, backward_max = _backward_movement(positions, frame_mask)

    peak = weights.amax(dim=-1, keepdim=True)
    attended = required & ((weights >= attended_share * peak) & (peak > 0)).any(dim=1)
    last_attended = _last_true(attended)[:, None]
    index = torch.arange(alignment.shape[-1], device=alignment.device)
    skipped = required & ~attended & (index < last_attended)
    repeated, repeated_runs = _find_repeats(path, frame_mask, alignment.shape[-1], min_run)
    last_required = _last_true(required)
    return AlignmentReport(
        positions=positions,
        path=path,
        backward_total=backward_total,
        backward_max=backward_max,
        completeness=attended.sum(dim=1) / required.sum(dim=1).clamp(min=1),
        attended=attended,
        skipped=skipped,
        unfinished=required & (index > last_attended),
        repeated=required & repeated,
        skipped_runs=_count_runs(skipped, required, min_run),
        repeated_runs=repeated_runs,
        ends_at_last_token=path[:, -1] >= last_required - end_tolerance,
    )


def expected_positions(alignment: torch.Tensor) -> torch.Tensor:
    """Expected token index at each frame.

    Args:
        alignment (`torch.Tensor` of shape `(..., T, S)`): Attention weights; rows need not sum to one.

    Returns:
        `torch.FloatTensor` of shape `(..., T)`: Tokens, from 0 to S - 1; 0 where a row is all zero.
    """
    weights = alignment.float()
    index = torch.arange(weights.shape[-1], device=weights.device, dtype=weights.dtype)
    total = weights.sum(dim=-1)
    return (weights @ index) / total.where(total > 0, torch.ones_like(total))


def token_times(
    path: torch.Tensor, frame_lengths: torch.Tensor | None, num_tokens: int, frame_rate: float
) -> torch.Tensor:
    """When each token is spoken: from the frame at which the path first reaches it to the one at which it goes beyond.

    The spans follow each other without gaps. A token that the path jumps over has an empty span, and a repeat belongs
    to the furthest token reached before it.

    Args:
        path (`torch.LongTensor` of shape `(B, T)`): Most attended token at each frame, from [`analyze_alignment`].
        frame_lengths (`torch.Tensor` of shape `(B,)`, *optional*): Frames of each utterance; T when `None`.
        num_tokens (`int`): Text tokens S, padding included.
        frame_rate (`float`): Frames per second.

    Returns:
        `torch.FloatTensor` of shape `(B, S, 2)`: Start and end in seconds; NaN for tokens that the path never reaches.
    """
    batch, num_frames = path.shape
    lengths = torch.full((batch,), num_frames) if frame_lengths is None else frame_lengths
    lengths = lengths.to(path.device)[:, None]
    furthest = path.cummax(dim=1).values
    index = torch.arange(num_tokens + 1, device=path.device).expand(batch, -1).contiguous()
    first_frame = torch.searchsorted(furthest.contiguous(), index).minimum(lengths)
    spans = torch.stack([first_frame[:, :-1], first_frame[:, 1:]], dim=-1) / frame_rate
    reached = index[:, :-1] <= furthest.gather(1, (lengths - 1).clamp(min=0))
    return spans.masked_fill(~(reached & (lengths > 0))[..., None], float("nan"))


def word_times(times: torch.Tensor, token_to_word: torch.Tensor, num_words: int | None = None) -> torch.Tensor:
    """When each word is spoken: from its first token's start to its last token's end.

    Args:
        times (`torch.FloatTensor` of shape `(B, S, 2)`): Token times in seconds, from [`token_times`].
        token_to_word (`torch.LongTensor` of shape `(B, S)` or `(S,)`): Word of each token; -1 for tokens of no word.
        num_words (`int`, *optional*): Words W in the result; the largest index plus one when `None`.

    Returns:
        `torch.FloatTensor` of shape `(B, W, 2)`: Start and end in seconds; NaN for words that the path never reaches.
    """
    words = token_to_word.to(times.device).expand(times.shape[:2])
    size = int(words.max()) + 1 if num_words is None else num_words
    known = (words >= 0) & ~times[..., 0].isnan()
    # Tokens of no word go to one extra word at the end, which is cut off.
    target = words.where(known, torch.full_like(words, size))
    infinity = times.new_full((times.shape[0], size + 1), float("inf"))
    start = infinity.scatter_reduce(1, target, times[..., 0].nan_to_num(), "amin")[:, :size]
    end = (-infinity).scatter_reduce(1, target, times[..., 1].nan_to_num(), "amax")[:, :size]
    result = torch.stack([start, end], dim=-1)
    return result.masked_fill(start.isinf()[..., None], float("nan"))


def split_words(text: str) -> list[str]:
    """Words of a text as [`map_tokens_to_words`] numbers them: parts between spaces that hold a letter or digit."""
    return [part for part in text.split() if any(map(str.isalnum, part))]


def map_tokens_to_words(text: str, offsets: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Which word of [`split_words`] each token of a text belongs to.

    Args:
        text (`str`): The text that was tokenized, as the tokenizer saw it.
        offsets (`Sequence[tuple[int, int]]`): First and last character (exclusive) of each of the S tokens in `text`;
            (0, 0) for special tokens. Fast tokenizers give it with `return_offsets_mapping=True`.

    Returns:
        `torch.LongTensor` of shape `(S,)`: Word of each token, numbered from 0; -1 for tokens of no word, such as
        special tokens, spaces and punctuation.
    """
    word_of_character, word = [], -1
    for part in re.findall(r"\s+|\S+", text):
        is_word = any(map(str.isalnum, part))
        word += is_word
        word_of_character += [word if is_word and character.isalnum() else -1 for character in part]
    return torch.tensor([max(word_of_character[start:end], default=-1) for start, end in offsets], dtype=torch.long)


def words_with(tokens: torch.Tensor, token_to_word: torch.Tensor, num_words: int | None = None) -> torch.Tensor:
    """Words of which at least half the tokens are marked, for example skipped or repeated ones.

    Args:
        tokens (`torch.BoolTensor` of shape `(B, S)`): Marked tokens, such as `AlignmentReport.skipped`.
        token_to_word (`torch.LongTensor` of shape `(B, S)` or `(S,)`): Word of each token; -1 for tokens of no word.
        num_words (`int`, *optional*): Words W in the result; the largest index plus one when `None`.

    Returns:
        `torch.BoolTensor` of shape `(B, W)`.
    """
    words = token_to_word.to(tokens.device).expand(tokens.shape)
    size = int(words.max()) + 1 if num_words is None else num_words
    target = words.where(words >= 0, torch.full_like(words, size))
    zeros = torch.zeros(tokens.shape[0], size + 1, device=tokens.device)
    marked = zeros.scatter_add(1, target, tokens.float())[:, :size]
    all_tokens = zeros.scatter_add(1, target, torch.ones_like(tokens, dtype=torch.float))[:, :size]
    return (marked > 0) & (2 * marked >= all_tokens)


def plot_alignment(
    alignment: torch.Tensor, tokens: Sequence[str], path: str | os.PathLike[str], frame_rate: float | None = None
) -> None:
    """Draws one alignment as a PNG: time to the right, text upwards.

    Args:
        alignment (`torch.Tensor` of shape `(T, S)`): Attention of one utterance, without padding.
        tokens (`Sequence[str]`): What the text axis shows, one label per token.
        path (`str` or `os.PathLike`): File to write.
        frame_rate (`float`, *optional*): Frames per second; the time axis counts frames when `None`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The number of labels differs from the number of tokens.
    """
    if alignment.ndim != 2 or alignment.shape[1] != len(tokens):
        raise ValueError(
            f"{len(tokens)} token labels do not fit an alignment of shape {tuple(alignment.shape)} (T, S)."
        )
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing an alignment needs matplotlib: pip install matplotlib.") from error

    num_frames, num_tokens = alignment.shape
    # A figure with a canvas of its own: pyplot would keep global state and choose a backend for the whole process.
    figure = Figure(figsize=(8, min(max(2.5, 0.16 * num_tokens), 12)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    end = num_frames / frame_rate if frame_rate else num_frames
    axes.imshow(
        alignment.detach().float().cpu().numpy().T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0.0, end, -0.5, num_tokens - 0.5),
    )
    axes.set_xlabel("time in seconds" if frame_rate else "frame")
    axes.set_ylabel("text token")
    step = max(1, -(-num_tokens // 80))
    # "$" would start a formula.
    labels = [token.replace("$", r"\$") for token in tokens[::step]]
    axes.set_yticks(range(0, num_tokens, step), labels=labels, fontsize=6 if num_tokens > 30 else 8)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _masks(
    alignment: torch.Tensor, frame_lengths: torch.Tensor | None, token_lengths: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if alignment.ndim != 3 or 0 in alignment.shape:
        raise ValueError(f"`alignment` must have shape (B, T, S) without empty axes, got {tuple(alignment.shape)}.")
    masks = []
    for name, lengths, size in (
        ("frame_lengths", frame_lengths, alignment.shape[1]),
        ("token_lengths", token_lengths, alignment.shape[2]),
    ):
        if lengths is None:
            lengths = torch.full((alignment.shape[0],), size)
        if lengths.shape != alignment.shape[:1] or (lengths < 0).any() or (lengths > size).any():
            raise ValueError(
                f"`{name}` must hold {alignment.shape[0]} numbers from 0 to {size}, got {lengths.tolist()}."
            )
        masks.append(torch.arange(size, device=alignment.device) < lengths.to(alignment.device)[:, None])
    return masks[0], masks[1]


def median_path(path: torch.Tensor, frame_mask: torch.Tensor, window: int) -> torch.Tensor:
    """Smooths a path; beyond its ends an utterance continues with its end tokens.

    Args:
        path (`torch.LongTensor` of shape `(B, T)`): Most attended token at each frame.
        frame_mask (`torch.BoolTensor` of shape `(B, T)`): The frames of each utterance, at its left.
        window (`int`): Frames that each median is taken over, odd.

    Returns:
        `torch.LongTensor` of shape `(B, T)`: Frames behind an utterance repeat its last one.
    """
    last = frame_mask.sum(dim=1, keepdim=True).sub(1).clamp(min=0)
    frames = torch.arange(path.shape[1], device=path.device).expand_as(path)
    continued = path.gather(1, frames.minimum(last))
    half = window // 2
    padded = functional.pad(continued[:, None].float(), (half, half), mode="replicate")[:, 0]
    filtered = padded.unfold(1, window, 1).median(dim=-1).values.long()
    return filtered.gather(1, frames.minimum(last))


def _backward_movement(positions: torch.Tensor, frame_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = frame_mask[:, 1:]
    total = ((positions[:, :-1] - positions[:, 1:]).clamp(min=0) * both).sum(dim=1)
    behind = (positions.cummax(dim=1).values - positions) * frame_mask
    return total, behind.amax(dim=1)


def _find_repeats(
    path: torch.Tensor, frame_mask: torch.Tensor, num_tokens: int, min_run: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens `(B, S)` that are visited again, and how often the path returns `(B,)`.

    All frames with the same furthest token form one episode. An episode in which the path falls back by `min_run`
    tokens is a return; what it visits from its first step back on, the furthest token included, is repeated.
    """
    furthest = path.cummax(dim=1).values
    behind = (furthest - path) * frame_mask
    # Running maximum of `behind` that starts anew with each episode: the episode's number dominates the comparison.
    behind_so_far = (furthest * num_tokens + behind).cummax(dim=1).values - furthest * num_tokens
    depth = torch.zeros(path.shape[0], num_tokens, dtype=path.dtype, device=path.device)
    depth = depth.scatter_reduce(1, furthest, behind, "amax")
    returning = (behind_so_far > 0) & (depth.gather(1, furthest) >= min_run) & frame_mask
    visits = torch.zeros_like(depth).scatter_add(1, path, returning.long())
    return visits > 0, (depth >= min_run).sum(dim=1)


def _last_true(mask: torch.Tensor) -> torch.Tensor:
    """Index of the last true entry of each row, `(B,)`; -1 where there is none."""
    index = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, index, -1).amax(dim=1)


def _count_runs(mask: torch.Tensor, counted: torch.Tensor, min_run: int) -> torch.Tensor:
    """Runs of at least `min_run` true entries of `mask` `(B, S)`; entries that are not `counted` do not end a run."""
    # A run is all marked entries between two counted entries that are not marked: it has their number as its name.
    name = (counted & ~mask).cumsum(dim=1)
    sizes = torch.zeros(mask.shape[0], mask.shape[1] + 1, dtype=torch.long, device=mask.device)
    return (sizes.scatter_add(1, name, mask.long()) >= min_run).sum(dim=1)


__all__ = [
    "AlignmentReport",
    "analyze_alignment",
    "expected_positions",
    "map_tokens_to_words",
    "median_path",
    "plot_alignment",
    "split_words",
    "token_times",
    "word_times",
    "words_with",
]
