"""What [`SmallEOnnxModel`] returns."""

from dataclasses import dataclass

import numpy as np


@dataclass
class SmallEOnnxOutput:
    """Output of [`SmallEOnnxModel.generate`]. A voice prompt is not part of it.

    Args:
        sequences (`np.ndarray` of shape `(B, T, Q)`): Codec codes by frame; 0 behind the end of a row.
        sequence_lengths (`np.ndarray` of shape `(B,)`): Frames of each row.
        is_finished (`np.ndarray` of shape `(B,)`): Rows that ended by themselves; the others met their limit.
        alignments (`np.ndarray` of shape `(B, T, S)`, *optional*): Weight of every text token at every frame.
        audio (`np.ndarray` of shape `(B, samples)`, *optional*): Waveforms at `config.sampling_rate`.
        audio_lengths (`np.ndarray` of shape `(B,)`, *optional*): Samples of each row.
        candidate_scores (`np.ndarray` of shape `(B, N)`, *optional*): Score of every candidate, of which the best one
            is returned, at most 1; with `num_candidates`.
    """

    sequences: np.ndarray
    sequence_lengths: np.ndarray
    is_finished: np.ndarray
    alignments: np.ndarray | None = None
    audio: np.ndarray | None = None
    audio_lengths: np.ndarray | None = None
    candidate_scores: np.ndarray | None = None


@dataclass
class SmallEOnnxChunk:
    """Speech of one text as it comes from [`SmallEOnnxModel.stream`]; as [`SmallEAudioChunk`] with B = 1.

    Args:
        audio (`np.ndarray` of shape `(1, samples)`): The next samples at `config.sampling_rate`, float32.
        audio_lengths (`np.ndarray` of shape `(1,)`): How many they are.
        start (`float`): Seconds from the beginning of the utterance to the first of them.
        sequences (`np.ndarray` of shape `(1, T, Q)`): Codec codes of the frames that were decoded for this chunk,
            ahead of its audio by what the codec has to know.
        sequence_lengths (`np.ndarray` of shape `(1,)`): How many they are.
        is_finished (`np.ndarray` of shape `(1,)`): Whether the utterance has ended by itself.
        is_last (`bool`): Whether no chunk follows.
    """

    audio: np.ndarray
    audio_lengths: np.ndarray
    start: float
    sequences: np.ndarray
    sequence_lengths: np.ndarray
    is_finished: np.ndarray
    is_last: bool = False


__all__ = ["SmallEOnnxChunk", "SmallEOnnxOutput"]
