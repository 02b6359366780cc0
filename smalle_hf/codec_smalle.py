"""The neural codec inside a checkpoint: any Transformers codec with `encode`, `decode` and `audio_codes`.

EnCodec wraps its codes in a leading dimension of chunks, other codecs do not; nothing else of the package needs to
know.
"""

import inspect
import math
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from .configuration_smalle import SmallEConfig

MANY_FRAMES = 16
"""Rows of so many frames are longer than the padding of any convolution in a codec."""


def build_codec(config: SmallEConfig) -> PreTrainedModel:
    """The codec that `config.codec_config` describes, frozen.

    Args:
        config ([`SmallEConfig`]): Needs a `codec_config`.

    Raises:
        ValueError: The codec has fewer codebooks than are modelled, other codebook sizes, or cuts audio into chunks.
    """
    codec = AutoModel.from_config(config.codec_config)
    for method in ("encode", "decode"):
        if not hasattr(codec, method):
            raise ValueError(f"{type(codec).__name__} has no `{method}`: choose a codec such as EnCodec, Mimi or DAC.")
    if getattr(codec.config, "chunk_length", None) is not None:
        raise ValueError("Codecs that cut audio into chunks are not supported: choose one without `chunk_length_s`.")
    codebook_size = getattr(codec.config, "codebook_size", config.codebook_size)
    if codebook_size != config.codebook_size:
        raise ValueError(f"`codebook_size` ({config.codebook_size}) differs from the codec's ({codebook_size}).")
    num_codebooks = available_codebooks(codec)
    if num_codebooks is not None and num_codebooks < config.num_codebooks:
        raise ValueError(f"`num_codebooks` ({config.num_codebooks}) exceeds the codec's ({num_codebooks}).")
    return codec.requires_grad_(False).eval()


def available_codebooks(codec: PreTrainedModel) -> int | None:
    """How many codebooks a codec has; `None` if its configuration does not say."""
    for name in ("num_quantizers", "n_codebooks", "num_codebooks"):
        if getattr(codec.config, name, None) is not None:
            return int(getattr(codec.config, name))
    return None


def codebook_options(codec: PreTrainedModel, num_codebooks: int) -> dict[str, Any]:
    """Arguments of `codec.encode` that keep it from computing more codebooks than are needed.

    Args:
        codec (`PreTrainedModel`): The codec.
        num_codebooks (`int`): Codebooks that are needed, the first ones.
    """
    parameters = inspect.signature(codec.encode).parameters
    for name in ("num_quantizers", "n_quantizers"):
        if name in parameters:
            return {name: num_codebooks}
    bandwidths = sorted(getattr(codec.config, "target_bandwidths", None) or [])
    if "bandwidth" not in parameters or not bandwidths:
        return {}
    per_codebook = math.log2(codec.config.codebook_size) * codec.config.frame_rate / 1000  # kbit/s
    enough = (bandwidth for bandwidth in bandwidths if bandwidth >= num_codebooks * per_codebook - 1e-6)
    return {"bandwidth": next(enough, bandwidths[-1])}


def encode_audio(
    codec: PreTrainedModel,
    input_values: torch.Tensor,
    input_values_mask: torch.Tensor | None,
    config: SmallEConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of right-padded mono waveforms, the first `num_codebooks` of them.

    Rows are encoded one by one: a codec's encoder may look ahead into padding.

    Args:
        codec (`PreTrainedModel`): The codec.
        input_values (`torch.Tensor` of shape `(B, samples)`): Audio at the codec's sampling rate.
        input_values_mask (`torch.Tensor` of shape `(B, samples)`, *optional*): 1 for audio, 0 for padding.
        config ([`SmallEConfig`]): Gives the number of codebooks.

    Returns:
        Codes of shape `(B, T, Q)` and their mask of shape `(B, T)`.

    Raises:
        TypeError: The samples are integers.
        ValueError: A shape is wrong, or a row is empty or not finite.
    """
    if input_values.ndim == 3 and input_values.shape[1] == 1:
        input_values = input_values[:, 0]
    if input_values.ndim != 2:
        raise ValueError(f"Audio must have shape (batch, samples), mono, got {tuple(input_values.shape)}.")
    if not input_values.is_floating_point():
        raise TypeError(f"Audio must hold floating point samples between -1 and 1, got {input_values.dtype}.")
    if input_values_mask is None:
        input_values_mask = torch.ones_like(input_values)
    if input_values_mask.shape != input_values.shape:
        shapes = f"{tuple(input_values_mask.shape)} instead of {tuple(input_values.shape)}"
        raise ValueError(f"The audio's mask has shape {shapes}: pass one value per sample.")
    lengths = input_values_mask.long().sum(dim=-1).tolist()
    if min(lengths, default=0) == 0:
        raise ValueError("The audio is empty: pass at least one sample per row.")
    if not torch.isfinite(input_values).all():
        raise ValueError("The audio holds NaN or infinite samples: repair or drop the recording.")
    options = codebook_options(codec, config.num_codebooks)
    dtype = next(codec.parameters()).dtype
    rows = []
    for waveform, length in zip(input_values, lengths, strict=True):
        # Whole frames: some codecs mirror the end of a partial last frame, and its code would depend on their way.
        samples = torch.nn.functional.pad(waveform[:length], (0, -length % config.frame_length))
        codes = codec.encode(samples[None, None].to(dtype), **options).audio_codes
        codes = codes[0] if codes.ndim == 4 else codes  # EnCodec: (chunks, B, Q, T)
        rows.append(codes[0, : config.num_codebooks].transpose(0, 1))
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row[:, 0]) for row in rows], batch_first=True)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def decode_codes(
    codec: PreTrainedModel, codes: torch.Tensor, lengths: torch.Tensor | None, samples_per_frame: int
) -> torch.Tensor:
    """Waveforms of right-padded codes.

    A causal codec decodes the batch at once, for it cannot hear the padding; another one decodes rows of equal length
    together. So does a causal one with very short rows: convolutions pad these in a way of their own.

    Args:
        codec (`PreTrainedModel`): The codec.
        codes (`torch.LongTensor` of shape `(B, T, Q)`): Codes.
        lengths (`torch.LongTensor` of shape `(B,)`, *optional*): Frames of each row; all if `None`.
        samples_per_frame (`int`): Samples that a frame yields.

    Returns:
        `torch.Tensor` of shape `(B, T * samples_per_frame)`; zeros behind a row's end.
    """
    num_rows, num_frames = codes.shape[:2]
    frames = [num_frames] * num_rows if lengths is None else lengths.tolist()
    audio = torch.zeros(num_rows, num_frames * samples_per_frame, device=codes.device)
    is_causal = bool(getattr(codec.config, "use_causal_conv", False))
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(frames):
        groups.setdefault(MANY_FRAMES if is_causal and length >= MANY_FRAMES else length, []).append(i)
    groups.pop(0, None)
    for rows in groups.values():
        longest = max(frames[i] for i in rows)
        decoded = _decode(codec, codes[rows, :longest].transpose(1, 2))
        for i, waveform in zip(rows, decoded, strict=True):
            samples = min(frames[i] * samples_per_frame, waveform.shape[-1])
            audio[i, :samples] = waveform[:samples].float()
    return audio


def _decode(codec: PreTrainedModel, codes: torch.Tensor) -> torch.Tensor:
    """(B, Q, T) codes -> (B, samples)."""
    if "audio_scales" in inspect.signature(codec.decode).parameters:  # EnCodec: (chunks, B, Q, T)
        decoded = codec.decode(codes[None], [None])
    elif "quantized_representation" in inspect.signature(codec.decode).parameters:  # DAC
        decoded = codec.decode(audio_codes=codes)
    else:
        decoded = codec.decode(codes)
    return decoded.audio_values.reshape(codes.shape[0], -1)


__all__ = ["available_codebooks", "build_codec", "codebook_options", "decode_codes", "encode_audio"]
