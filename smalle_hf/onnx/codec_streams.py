"""The codec in ONNX Runtime: codes to audio, whole or piece by piece, and recordings to codes."""

import math

import numpy as np

from .configuration import SmallEOnnxConfig
from .rows import NEVER
from .sessions import OnnxGraphs


class CodecStream:
    """Decodes utterances of one length piece by piece. All pieces together are what the whole is, whatever their size.

    Args:
        graphs ([`OnnxGraphs`]): Sessions of a model with a codec whose decoder has a state.
        num_rows (`int`, defaults to 1): Utterances B.
    """

    def __init__(self, graphs: OnnxGraphs, num_rows: int = 1) -> None:
        self.graphs, self.config = graphs, graphs.config
        shapes = graphs.config.codec_state_shapes or []
        self.states = [np.zeros((num_rows, *shape), dtype=np.float32) for shape in shapes]
        self.num_frames = 0  # taken so far
        self.num_samples = -graphs.config.codec_delay  # given out so far; those before the first frame are no speech

    def frames_needed(self, num_frames: int) -> int:
        """Frames that the first piece must have for the audio of `num_frames` to come out."""
        return max(num_frames + self._frames_of_delay(), self.config.codec_first_frames)

    def _frames_of_delay(self) -> int:
        return math.ceil(self.config.codec_delay / self.config.frame_length)

    def decode(self, codes: np.ndarray, is_last: bool = False) -> np.ndarray:
        """Decodes some more frames.

        Args:
            codes (`np.ndarray` of shape `(B, T, Q)`): The next frames; none, at most, of the last piece, and at least
                `codec_first_frames` of the first one unless it is the last one too.
            is_last (`bool`, defaults to `False`): No frames follow: give also what waited for them.

        Returns:
            `np.ndarray` of shape `(B, samples)`, float32: the next samples, which lag behind the frames by what the
            codec has to know.
        """
        config, num_rows = self.config, len(codes)
        first, end = self.num_frames, NEVER
        self.num_frames += codes.shape[1]
        if is_last:
            end = self.num_frames
            # What is behind the end is not heard, but pushes out what was held back.
            codes = np.pad(codes, ((0, 0), (0, self._frames_of_delay() if end else 0), (0, 0)))
        if not codes.shape[1]:
            return np.zeros((num_rows, 0), dtype=np.float32)
        inputs = {
            "audio_codes": np.ascontiguousarray(codes.transpose(0, 2, 1), dtype=np.int64),
            "frame_index": np.full(num_rows, first),
            "num_frames": np.full(num_rows, end),
        }
        inputs |= {f"state_{index}": state for index, state in enumerate(self.states)}
        audio, *self.states = self.graphs.codec_decoder.run(None, inputs)
        start = max(-self.num_samples, 0)
        stop = self.num_frames * config.frame_length - self.num_samples if is_last else audio.shape[1]
        self.num_samples += audio.shape[1]
        return audio[:, start:stop]


def decode_codes(graphs: OnnxGraphs, codes: np.ndarray) -> np.ndarray:
    """Waveforms `(B, T * frame_length)` of codes `(B, T, Q)`, whole utterances of one length."""
    if graphs.config.codec_state_shapes is not None:
        return CodecStream(graphs, len(codes)).decode(codes, is_last=True)
    inputs = {"audio_codes": np.ascontiguousarray(codes.transpose(0, 2, 1), dtype=np.int64)}
    return graphs.codec_decoder.run(None, inputs)[0][:, : codes.shape[1] * graphs.config.frame_length]


def encode_audio(
    graphs: OnnxGraphs, input_values: np.ndarray, input_values_mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of right-padded mono waveforms; see [`SmallEOnnxModel.encode_audio`].

    Raises:
        TypeError: The samples are integers.
        ValueError: A shape is wrong, a row is empty or not finite, or the model was exported without the encoder.
    """
    config = graphs.config
    check_encoder(config)
    audio = np.asarray(input_values)
    if not np.issubdtype(audio.dtype, np.floating):
        raise TypeError(f"Audio must hold floating point samples between -1 and 1, got {audio.dtype}.")
    if audio.ndim != 2:
        raise ValueError(f"Audio must have shape (batch, samples), mono, got {audio.shape}.")
    mask = np.ones(audio.shape, dtype=np.int64) if input_values_mask is None else np.asarray(input_values_mask)
    if mask.shape != audio.shape:
        raise ValueError(f"The audio's mask has shape {mask.shape} instead of {audio.shape}: one value per sample.")
    lengths = mask.astype(bool).sum(axis=1)
    if not lengths.all() or not len(lengths):
        raise ValueError("The audio is empty: pass at least one sample per row.")
    if not np.isfinite(audio).all():
        raise ValueError("The audio holds NaN or infinite samples: repair or drop the recording.")
    frames = -(-lengths // config.frame_length)
    codes = np.zeros((len(audio), int(frames.max()), config.num_codebooks), dtype=np.int64)
    for row, length, num_frames, target in zip(audio, lengths, frames, codes, strict=True):
        samples = np.zeros(num_frames * config.frame_length, dtype=np.float32)
        samples[:length] = row[:length]
        inputs = {"audio": samples.reshape(1, num_frames, config.frame_length)}
        target[:num_frames] = graphs.codec_encoder.run(None, inputs)[0][0].T
    return codes, (np.arange(codes.shape[1]) < frames[:, None]).astype(np.int64)


def check_encoder(config: SmallEOnnxConfig) -> None:
    """Refuses recordings where nothing can encode them.

    Raises:
        ValueError: The model was exported without the codec's encoder.
    """
    if not config.has_codec_encoder:
        raise ValueError(
            "This exported model cannot encode recordings: its codec has no encoder, or was exported without it. Make "
            "a voice of the recording with `smalle encode` and the codec that has one."
        )


__all__ = ["CodecStream", "check_encoder", "decode_codes", "encode_audio"]
