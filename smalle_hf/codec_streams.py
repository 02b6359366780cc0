"""Codecs decoded piece by piece: all pieces together are what the codec makes of the whole utterance.

The small codec carries a state of its own. EnCodec is run layer by layer here, each layer with what it needs of the
pieces before: the last inputs of a convolution, the overlap of an upsampling one, the state of the LSTM. DAC, which is
convolutions only, decodes every piece together with the frames around it that can be heard in it.

    B batch, Q codebooks, T frames, C channels, n samples

States are plain data: dataclasses, lists and tuples of tensors whose first dimension is the batch.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DacModel, EncodecModel, PreTrainedModel
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
    EncodecResnetBlock,
)

from .codec_smalle import decode_codes


class ChunkDecoder(Protocol):
    """A codec's decoder, one piece at a time."""

    def frames_needed(self, num_frames: int) -> int:
        """Frames that have to be there before the audio of the first `num_frames` comes out."""

    def decode_chunk(self, codes: torch.Tensor, state: Any = None, is_last: bool = False) -> tuple[torch.Tensor, Any]:
        """Decodes some more frames.

        Args:
            codes (`torch.LongTensor` of shape `(B, T, Q)`): The next frames; T may be 0 when `is_last`.
            state (*optional*): From the piece before.
            is_last (`bool`, defaults to `False`): No frames follow: give also what waited for them.

        Returns:
            Audio of shape `(B, n)`, float32, and the state for the next piece.
        """


def chunk_decoder(codec: PreTrainedModel, frame_length: int) -> ChunkDecoder:
    """What decodes a codec's codes piece by piece.

    Args:
        codec (`PreTrainedModel`): The codec.
        frame_length (`int`): Samples per frame.

    Raises:
        ValueError: It is not known how, or the codec hears the whole utterance at once.
    """
    if hasattr(codec, "decode_chunk"):
        return SmallCodecChunkDecoder(codec)
    if isinstance(codec, EncodecModel):
        return EncodecChunkDecoder(codec)
    if isinstance(codec, DacModel):
        return DacChunkDecoder(codec, frame_length)
    raise ValueError(
        f"{type(codec).__name__} cannot be decoded piece by piece: generate whole utterances, or use the small codec, "
        "EnCodec or DAC."
    )


def select_rows(state: Any, rows: list[int]) -> Any:
    """The same state with the named rows of the batch only."""
    if isinstance(state, torch.Tensor):
        return state[rows]
    if isinstance(state, (list, tuple)):
        return type(state)(select_rows(entry, rows) for entry in state)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        return dataclasses.replace(state, **{name: select_rows(value, rows) for name, value in fields.items()})
    return state


class SmallCodecChunkDecoder:
    """[`SmallCodecModel`], which carries a state of its own."""

    def __init__(self, codec: Any) -> None:
        self.codec = codec

    def frames_needed(self, num_frames: int) -> int:
        return num_frames + self.codec.config.lookahead_frames

    def decode_chunk(self, codes: torch.Tensor, state: Any = None, is_last: bool = False) -> tuple[torch.Tensor, Any]:
        audio, state = self.codec.decode_chunk(codes.transpose(1, 2), state, is_last)
        return audio[:, 0].float(), state


@dataclass
class ConvolutionState:
    """Last inputs `(B, C, m)` of a convolution, and whether it has begun: padding that mirrors the beginning has to
    wait for it."""

    inputs: torch.Tensor
    has_begun: bool = False


@dataclass
class UpsamplingState:
    """Samples `(B, C, kernel - stride)` that later inputs still add to, and those that are still to be cut off the
    beginning."""

    overlap: torch.Tensor
    trim: int


class EncodecChunkDecoder:
    """EnCodec, causal or not, run layer by layer.

    Args:
        codec (`EncodecModel`): The codec.

    Raises:
        ValueError: Its norms are over time, or its padding wraps around: both need the whole utterance.
    """

    def __init__(self, codec: EncodecModel) -> None:
        if codec.config.norm_type != "weight_norm" or codec.config.pad_mode == "circular":
            raise ValueError(
                f"EnCodec with `norm_type` {codec.config.norm_type!r} and `pad_mode` {codec.config.pad_mode!r} needs "
                "the whole utterance: decode what `generate` returns."
            )
        self.codec = codec

    def frames_needed(self, num_frames: int) -> int:
        rate, lookahead, first = 1, 0.0, 1  # samples per frame, frames
        for layer in self.codec.decoder.modules():
            if isinstance(layer, EncodecConvTranspose1d):
                rate *= layer.conv.stride[0]
                lookahead += _trims(layer)[0] / rate
            elif isinstance(layer, EncodecConv1d):
                left, right = _paddings(layer)
                lookahead += right / rate
                if self.codec.config.pad_mode == "reflect":
                    first = max(first, math.ceil((max(left, right) + 1) / rate))
        return max(num_frames + math.ceil(lookahead), first)

    def decode_chunk(
        self, codes: torch.Tensor, state: list[Any] | None = None, is_last: bool = False
    ) -> tuple[torch.Tensor, list[Any]]:
        hidden = self.codec.quantizer.decode(codes.permute(2, 0, 1))  # (Q, B, T) -> (B, C, T)
        hidden, state = _run_layers(self.codec.decoder.layers, hidden, state, is_last)
        return hidden[:, 0].float(), state


def _run_layers(
    layers: nn.ModuleList, hidden: torch.Tensor, states: list[Any] | None, is_last: bool
) -> tuple[torch.Tensor, list[Any]]:
    following = []
    for layer, state in zip(layers, states or [None] * len(layers), strict=True):
        if isinstance(layer, EncodecConv1d):
            hidden, state = _convolve(layer, hidden, state, is_last)
        elif isinstance(layer, EncodecConvTranspose1d):
            hidden, state = _upsample(layer, hidden, state, is_last)
        elif isinstance(layer, EncodecLSTM):
            hidden, state = _run_lstm(layer, hidden, state)
        elif isinstance(layer, EncodecResnetBlock):
            hidden, state = _run_resnet(layer, hidden, state, is_last)
        else:  # ELU
            hidden = layer(hidden)
        following.append(state)
    return hidden, following


def _paddings(layer: EncodecConv1d) -> tuple[int, int]:
    """Samples that EnCodec puts before and behind the input of a convolution of stride 1."""
    total = (layer.conv.kernel_size[0] - 1) * layer.conv.dilation[0]
    right = 0 if layer.causal else total // 2
    return total - right, right


def _trims(layer: EncodecConvTranspose1d) -> tuple[int, int]:
    """Samples that EnCodec cuts off both ends of the output of an upsampling convolution."""
    total = layer.conv.kernel_size[0] - layer.conv.stride[0]
    right = math.ceil(total * layer.trim_right_ratio) if layer.causal else total // 2
    return total - right, right


def _convolve(
    layer: EncodecConv1d, hidden: torch.Tensor, state: ConvolutionState | None, is_last: bool
) -> tuple[torch.Tensor, ConvolutionState]:
    left, right = _paddings(layer)
    frames = hidden if state is None else torch.cat([state.inputs, hidden], dim=-1)
    has_begun = state is not None and state.has_begun
    behind = right if is_last else 0
    mirrored = max(left, right) if layer.pad_mode == "reflect" else 0
    if has_begun:
        frames = layer._pad1d(frames, (0, behind), mode=layer.pad_mode) if behind else frames
    elif frames.shape[-1] > mirrored or (is_last and frames.shape[-1]):
        frames, has_begun = layer._pad1d(frames, (left, behind), mode=layer.pad_mode), True
    num_outputs = frames.shape[-1] - left - right if has_begun else 0
    if num_outputs <= 0:
        return frames.new_zeros(len(frames), layer.conv.out_channels, 0), ConvolutionState(frames, has_begun)
    return layer.conv(frames), ConvolutionState(frames[..., num_outputs:], True)


def _upsample(
    layer: EncodecConvTranspose1d, hidden: torch.Tensor, state: UpsamplingState | None, is_last: bool
) -> tuple[torch.Tensor, UpsamplingState]:
    stride, tail = layer.conv.stride[0], layer.conv.kernel_size[0] - layer.conv.stride[0]
    left, right = _trims(layer)
    if state is None:
        state = UpsamplingState(hidden.new_zeros(len(hidden), layer.conv.out_channels, tail), left)
    num_done = hidden.shape[-1] * stride
    added = F.pad(state.overlap, (0, num_done))
    if num_done:
        added = added + F.conv_transpose1d(hidden, layer.conv.weight, stride=stride)
    end = num_done + (tail - right if is_last else 0)
    trim = min(state.trim, end)
    done = added[..., trim:end]
    if layer.conv.bias is not None:
        done = done + layer.conv.bias[:, None]
    return done, UpsamplingState(added[..., num_done:], state.trim - trim)


def _run_lstm(
    layer: EncodecLSTM, hidden: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    if not hidden.shape[-1]:
        return hidden, state
    memory = None if state is None else tuple(part.transpose(0, 1).contiguous() for part in state)
    inputs = hidden.permute(2, 0, 1)
    outputs, (last, cell) = layer.lstm(inputs, memory)
    # The LSTM puts its layers before the batch.
    return (outputs + inputs).permute(1, 2, 0), (last.transpose(0, 1), cell.transpose(0, 1))


def _run_resnet(
    block: EncodecResnetBlock, hidden: torch.Tensor, state: tuple[torch.Tensor, list[Any]] | None, is_last: bool
) -> tuple[torch.Tensor, tuple[torch.Tensor, list[Any]]]:
    waiting, states = (hidden, None) if state is None else (torch.cat([state[0], hidden], dim=-1), state[1])
    hidden, states = _run_layers(block.block, hidden, states, is_last)
    num_done = hidden.shape[-1]
    if num_done:  # convolutions refuse what is empty
        hidden = block.shortcut(waiting[..., :num_done]) + hidden
    return hidden, (waiting[..., num_done:], states)


@dataclass
class OverlapState:
    """Frames `(B, T, Q)` that can still be heard in what follows, and how many of them have been given out."""

    codes: torch.Tensor
    num_done: int


class DacChunkDecoder:
    """DAC, whose decoder is convolutions only: each piece is decoded with the frames that can be heard in it.

    Args:
        codec (`DacModel`): The codec.
        frame_length (`int`): Samples per frame.
    """

    def __init__(self, codec: DacModel, frame_length: int) -> None:
        self.codec, self.frame_length = codec, frame_length
        self.reach = _reach_of_convolutions(codec.decoder)

    def frames_needed(self, num_frames: int) -> int:
        return num_frames + self.reach

    def decode_chunk(
        self, codes: torch.Tensor, state: OverlapState | None = None, is_last: bool = False
    ) -> tuple[torch.Tensor, OverlapState]:
        num_done = 0
        if state is not None:
            codes, num_done = torch.cat([state.codes, codes], dim=1), state.num_done
        num_ready = codes.shape[1] if is_last else max(codes.shape[1] - self.reach, num_done)
        if num_ready == num_done:
            return torch.zeros(len(codes), 0, device=codes.device), OverlapState(codes, num_done)
        audio = decode_codes(self.codec, codes, None, self.frame_length)
        first = max(num_ready - self.reach, 0)
        done = audio[:, num_done * self.frame_length : num_ready * self.frame_length]
        return done, OverlapState(codes[:, first:], num_ready - first)


def _reach_of_convolutions(decoder: nn.Module) -> int:
    """Frames on either side of a frame that can be heard in it, at most."""
    reach, rate = 0.0, 1  # frames, samples per frame
    for layer in decoder.modules():
        if isinstance(layer, nn.ConvTranspose1d):
            rate *= layer.stride[0]
            reach += layer.kernel_size[0] / rate
        elif isinstance(layer, nn.Conv1d):
            total = (layer.kernel_size[0] - 1) * layer.dilation[0]
            reach += total / 2 / rate  # its padding is the same on both sides
    return math.ceil(reach) + 1


__all__ = ["ChunkDecoder", "chunk_decoder", "select_rows"]
