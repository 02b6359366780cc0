"""How well utterances read their text, by their alignments alone: what the choice among candidates rests on.

In numpy, for [`SmallEForSpeechGeneration`] and for exported models, which speak without torch. What the parts of the
score mean, and how they are found: `alignment.py`, which has them for every utterance of a batch and more of them.
"""

import numpy as np

UNFINISHED_PENALTY = 4.0
"""More than all the terms of a score that it is added to can make up for."""

SEED_STRIDE = 1_000_003
"""Distance between the seeds of two candidates. Far more than a batch has rows, so that no two rows share a seed."""

ATTENDED_SHARE = 0.5
MEDIAN_WINDOW = 5
MIN_RUN = 2
"""As [`analyze_alignment`] has them by default."""


def score_alignment(
    alignment: np.ndarray, is_finished: bool, required: np.ndarray, start: float | None = None
) -> float:
    """Score of one utterance; see [`score_alignments`].

    Args:
        alignment (`np.ndarray` of shape `(T, S)`): Weight of every text token at every frame; T may be 0.
        is_finished (`bool`): Whether the utterance ended by itself.
        required (`np.ndarray` of shape `(S,)`): Whether each token shall be spoken.
        start (`float`, *optional*): Token at which the utterance shall begin.
    """
    num_tokens = alignment.shape[1]
    weights = alignment.astype(np.float32) if len(alignment) else np.zeros((1, num_tokens), dtype=np.float32)
    index = np.arange(num_tokens)
    last_required = int(index[required].max(initial=-1))
    if start is not None:
        required = required & (index >= start)
    total = weights.sum(axis=1)
    positions = (weights @ index.astype(np.float32)) / np.where(total > 0, total, 1.0)
    backward = float((np.maximum.accumulate(positions) - positions).max())
    if start is not None:
        earliest = positions[: len(alignment)].min(initial=np.inf)
        backward = max(backward, float(start - earliest))
    path = median_path(weights.argmax(axis=1))
    peak = weights.max(axis=1, keepdims=True)
    attended = ((weights >= ATTENDED_SHARE * peak) & (peak > 0)).any(axis=0)
    missed = (required & ~attended).sum()
    repeated = (required & repeated_tokens(path, num_tokens)).sum()
    faults = np.array([missed, repeated, backward, max(last_required - path[-1], 0)], dtype=np.float32)
    shares = np.minimum(faults / np.float32(max(required.sum(), 1)), 1.0)
    return float(1.0 - shares.sum() - UNFINISHED_PENALTY * (not is_finished))


def median_path(path: np.ndarray) -> np.ndarray:
    """Most attended tokens `(T,)`, median-filtered; beyond its ends the path continues with its end tokens."""
    padded = np.pad(path, MEDIAN_WINDOW // 2, mode="edge")
    return np.sort(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WINDOW), axis=1)[:, MEDIAN_WINDOW // 2]


def repeated_tokens(path: np.ndarray, num_tokens: int) -> np.ndarray:
    """Which tokens `(S,)` a path `(T,)` visits again after it had passed them.

    All frames with the same furthest token form one episode. One in which the path falls back by `MIN_RUN` tokens is
    a return; what it visits from its first step back on, the furthest token included, is repeated.
    """
    furthest = np.maximum.accumulate(path)
    repeated = np.zeros(num_tokens, dtype=bool)
    for token in np.unique(furthest[furthest - path >= MIN_RUN]):
        episode = path[furthest == token]
        repeated[episode[np.argmax(episode < token) :]] = True
    return repeated


def choose_candidates(
    alignments: np.ndarray,
    frame_lengths: np.ndarray,
    is_finished: np.ndarray,
    attention_mask: np.ndarray,
    goes_on: bool,
    num_candidates: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates read their texts best.

    Args:
        alignments (`np.ndarray` of shape `(B * N, T, S)`): Weight of every text token at every frame.
        frame_lengths (`np.ndarray` of shape `(B * N,)`): Frames of each utterance.
        is_finished (`np.ndarray` of shape `(B * N,)`): Utterances that ended by themselves.
        attention_mask (`np.ndarray` of shape `(B * N, S)`): True for text, False for padding.
        goes_on (`bool`): Whether the utterances follow a voice prompt or earlier speech, and so begin somewhere in
            the text: where the median of its candidates does.
        num_candidates (`int`): Utterances N of each text, side by side.

    Returns:
        Scores `(B, N)`, float32, and the indices `(B,)` of the best ones among the B * N.
    """
    # A text stands between its begin and end tokens, which nobody speaks.
    index, last = np.arange(alignments.shape[2]), attention_mask.sum(axis=1, keepdims=True) - 1
    required = attention_mask & (index > 0) & (index < last)
    starts: list[float | None] = [None] * len(alignments)
    if goes_on and alignments.shape[1]:
        first = np.sort(alignments[:, 0].argmax(axis=1).reshape(-1, num_candidates), axis=1)
        starts = list(np.repeat(first[:, (num_candidates - 1) // 2], num_candidates))
    scores = np.array(
        [
            score_alignment(alignment[:length], bool(finished), tokens, start)
            for alignment, length, finished, tokens, start in zip(
                alignments, frame_lengths, is_finished, required, starts, strict=True
            )
        ],
        dtype=np.float32,
    ).reshape(-1, num_candidates)
    return scores, scores.argmax(axis=1) + num_candidates * np.arange(len(scores))


__all__ = ["SEED_STRIDE", "UNFINISHED_PENALTY", "choose_candidates", "score_alignment"]
