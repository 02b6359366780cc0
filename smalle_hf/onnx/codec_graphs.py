"""Codecs as graphs: decoders with a state, so that one graph serves whole utterances and streams, and encoders.

B batch, Q codebooks, T frames, C channels, `hop` samples per frame

| graph         | in                                                             | out                         |
|---------------|----------------------------------------------------------------|-----------------------------|
| codec_decoder | audio_codes (B, Q, T), frame_index (B,), num_frames (B,), *states* | audio (B, T * hop), *states* |
| codec_encoder | audio (B, T, hop)                                              | audio_codes (B, Q, T)       |

frame_index is the place of the first frame in its utterance of num_frames frames, which may be any number beyond while
the end is not known. *states* are state_0, ... in and new_state_0, ... out, zeros before the first frame. The audio
lags behind the codes by `delay` samples of the decoder: frames behind the end of an utterance push the rest out.

Of codecs other than these, the decoder takes audio_codes of whole utterances and has no state.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from transformers import EncodecModel, PreTrainedModel
from transformers.models.encodec.modeling_encodec import (
    EncodecConv1d,
    EncodecConvTranspose1d,
    EncodecLSTM,
    EncodecResnetBlock,
)

from ..codec_smalle import _decode, codebook_options
from ..configuration_smalle import SmallEConfig
from ..layers_small_codec import MAX_MAGNITUDE, FrameConvolution, LogMelSpectrogram
from ..modeling_small_codec import SmallCodecModel

BATCH, NUM_FRAMES = 2, 20
"""Sizes of the examples: any but 0 and 1, which the exporter takes for constants."""

Tensors = tuple[torch.Tensor, ...]


class SmallCodecDecoderGraph(nn.Module):
    """[`SmallCodecModel.decode_chunk`] with a state of fixed size.

    A convolution that looks ahead gives out what it computes that much later, so that every frame that comes in sends
    one out. What it gives for frames before the first and behind the last one is silenced: there the whole utterance
    has padding. The inverse STFT, which the runtime has no operator for, is a transposed convolution with windowed
    sines and cosines, which adds overlapping frames up as well.
    """

    def __init__(self, codec: SmallCodecModel) -> None:
        super().__init__()
        self.codec, self.config = codec, codec.config
        self.overlap = codec.config.istft_size - codec.config.hop_length

    @property
    def delay(self) -> int:
        """Samples by which the audio lags behind the codes."""
        return sum(layer.lookahead for layer in self._convolutions()) * self.config.hop_length + self.overlap // 2

    @property
    def first_frames(self) -> int:
        """Frames that the first piece must have, if it is not the whole."""
        return 1

    def state_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the states without the batch: last inputs of the convolutions, samples and weights of the windows
        that later frames add to."""
        contexts = [(layer.in_channels, layer.kernel_size[0] - 1) for layer in self._convolutions()]
        return [*contexts, (self.overlap,), (self.overlap,)]

    def _convolutions(self) -> list[FrameConvolution]:
        decoder: Any = self.codec.decoder
        return [decoder.embed, *(layer.depthwise for layer in decoder.layers)]

    def forward(
        self, audio_codes: torch.Tensor, frame_index: torch.Tensor, num_frames: torch.Tensor, states: Tensors
    ) -> Tensors:
        decoder: Any = self.codec.decoder
        condition = self.codec._condition(audio_codes.shape[1])
        index = frame_index[:, None] + torch.arange(audio_codes.shape[2])

        def is_frame() -> torch.Tensor:
            return ((index >= 0) & (index < num_frames[:, None])).float()[:, None]

        latents = self.codec.quantizer.decode(audio_codes).transpose(1, 2) * is_frame()
        hidden, _, context = convolve_frames(decoder.embed, latents, states[0])
        index, contexts = index - decoder.embed.lookahead, [context]
        hidden = decoder.norm(hidden.transpose(1, 2), condition).transpose(1, 2)
        for layer, old in zip(decoder.layers, states[1:], strict=False):
            mixed, residual, context = convolve_frames(layer.depthwise, hidden * is_frame(), old)
            index = index - layer.depthwise.lookahead
            mixed = layer.norm(mixed.transpose(1, 2), condition)
            mixed = layer.scale * layer.down_proj(F.gelu(layer.up_proj(mixed)))
            hidden = residual + mixed.transpose(1, 2)
            contexts.append(context)
        audio, overlap, weight = self._invert_stft(
            decoder.final_norm(hidden.transpose(1, 2)), is_frame(), *states[-2:]
        )
        return audio, *contexts, overlap, weight

    def _invert_stft(
        self, hidden: torch.Tensor, is_frame: torch.Tensor, overlap: torch.Tensor, weight: torch.Tensor
    ) -> Tensors:
        """Audio `(B, T * hop)` of hidden states `(B, T, C)`, and the two states."""
        size, hop = self.config.istft_size, self.config.hop_length
        log_magnitude, phase = self.codec.head.out_proj(hidden).chunk(2, dim=-1)
        magnitude = log_magnitude.exp().clamp(max=MAX_MAGNITUDE)
        spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=-1).transpose(1, 2)
        window = torch.hann_window(size)
        cosines, sines = fourier_basis(size)
        # Bins between the first and the last stand for their mirror images as well; the sines of these two are 0.
        bins = torch.arange(size // 2 + 1)
        weights = torch.where((bins == 0) | (bins == size // 2), 1.0, 2.0)[:, None] / size
        basis = torch.cat([cosines * weights, -sines * weights]) * window
        samples = F.conv_transpose1d(spectrum * is_frame, basis[:, None], stride=hop)[:, 0]
        squares = F.conv_transpose1d(is_frame, (window**2)[None, None], stride=hop)[:, 0]
        num_done = hidden.shape[1] * hop
        samples, squares = samples + F.pad(overlap, (0, num_done)), squares + F.pad(weight, (0, num_done))
        audio = samples[:, :num_done] / squares[:, :num_done].clamp(min=1e-11)
        return audio, samples[:, num_done:], squares[:, num_done:]


def convolve_frames(layer: FrameConvolution, hidden: torch.Tensor, context: torch.Tensor) -> Tensors:
    """The output of a convolution, its inputs at the same frames, and its last inputs; all but these `(B, C, T)`."""
    frames = torch.cat([context, hidden], dim=-1)
    output = F.conv1d(frames, layer.weight, layer.bias, groups=layer.groups)
    aligned = frames[..., layer.lookback : layer.lookback + hidden.shape[-1]]
    return output, aligned, frames[..., hidden.shape[-1] :]


def fourier_basis(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every frequency, `(size // 2 + 1, size)` each."""
    # The product of the integers is reduced first: the angle would lose its digits.
    angles = (torch.arange(size // 2 + 1)[:, None] * torch.arange(size) % size) * (2 * math.pi / size)
    return angles.cos(), angles.sin()


class EncodecDecoderGraph(nn.Module):
    """The decoder of a causal EnCodec, layer by layer: each with the last inputs of a convolution, the overlap of an
    upsampling one, or the state of the LSTM."""

    delay = 0

    def __init__(self, codec: EncodecModel) -> None:
        super().__init__()
        self.codec = plain_copy(codec)

    @property
    def first_frames(self) -> int:
        """Frames that the first piece must have, if it is not the whole: padding that mirrors the beginning of an
        utterance has to know it."""
        if self.codec.config.pad_mode != "reflect":
            return 1
        needed, rate = 1, 1  # frames, samples per frame
        for layer in self.codec.decoder.modules():
            if isinstance(layer, EncodecConvTranspose1d):
                rate *= layer.conv.stride[0]
            elif isinstance(layer, EncodecConv1d):
                needed = max(needed, math.ceil((_reach(layer) + 1) / rate))
        return needed

    def state_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the states without the batch."""
        shapes: list[tuple[int, ...]] = []
        for layer in self.codec.decoder.modules():
            if isinstance(layer, EncodecConv1d) and _reach(layer):
                shapes.append((layer.conv.in_channels, _reach(layer)))
            elif isinstance(layer, EncodecConvTranspose1d):
                shapes.append((layer.conv.out_channels, _overlap(layer)))
            elif isinstance(layer, EncodecLSTM):
                shapes += [(layer.lstm.num_layers, layer.lstm.hidden_size)] * 2
        return shapes

    def forward(
        self, audio_codes: torch.Tensor, frame_index: torch.Tensor, num_frames: torch.Tensor, states: Tensors
    ) -> Tensors:
        old = iter(states)
        new: list[torch.Tensor] = []
        is_first = (frame_index == 0)[:, None, None]
        index = frame_index[:, None] + torch.arange(audio_codes.shape[2])
        hidden = self.codec.quantizer.decode(audio_codes.transpose(0, 1))
        hidden = hidden * (index < num_frames[:, None])[:, None]
        hidden = self._run(self.codec.decoder.layers, hidden, is_first, old, new)
        return hidden[:, 0], *new

    def _run(
        self,
        layers: nn.ModuleList,
        hidden: torch.Tensor,
        is_first: torch.Tensor,
        old: Iterator[torch.Tensor],
        new: list[torch.Tensor],
    ) -> torch.Tensor:
        """Output of layers one after the other, which take their states from `old` and add them to `new`."""
        for layer in layers:
            if isinstance(layer, EncodecConv1d):
                hidden = self._convolve(layer, hidden, is_first, old, new)
            elif isinstance(layer, EncodecConvTranspose1d):
                hidden = self._upsample(layer, hidden, old, new)
            elif isinstance(layer, EncodecLSTM):
                frames = hidden.permute(2, 0, 1)
                outputs, last, cell = layer.lstm(frames, next(old), next(old))
                new += [last, cell]
                hidden = (outputs + frames).permute(1, 2, 0)
            elif isinstance(layer, EncodecResnetBlock):
                mixed = self._run(layer.block, hidden, is_first, old, new)
                shortcut = nn.ModuleList([layer.shortcut])
                hidden = self._run(shortcut, hidden, is_first, old, new) + mixed
            else:  # ELU, or no shortcut
                hidden = layer(hidden)
        return hidden

    def _convolve(
        self,
        layer: EncodecConv1d,
        hidden: torch.Tensor,
        is_first: torch.Tensor,
        old: Iterator[torch.Tensor],
        new: list[torch.Tensor],
    ) -> torch.Tensor:
        reach = _reach(layer)
        if not reach:
            return layer.conv(hidden)
        beginning = _pad(hidden, (reach, 0), layer.pad_mode)[..., :reach]
        context = torch.where(is_first, beginning, next(old))
        frames = torch.cat([context, hidden], dim=-1)
        new.append(frames[..., hidden.shape[-1] :])
        return layer.conv(frames)

    def _upsample(
        self, layer: EncodecConvTranspose1d, hidden: torch.Tensor, old: Iterator[torch.Tensor], new: list[torch.Tensor]
    ) -> torch.Tensor:
        stride = int(layer.conv.stride[0])
        num_done = hidden.shape[-1] * stride
        added = F.conv_transpose1d(hidden, layer.conv.weight, stride=stride) + F.pad(next(old), (0, num_done))
        new.append(added[..., num_done:])
        done = added[..., :num_done]
        return done if layer.conv.bias is None else done + layer.conv.bias[:, None]


def _reach(layer: EncodecConv1d) -> int:
    """Samples before its own that a convolution of stride 1 hears."""
    return int((layer.conv.kernel_size[0] - 1) * layer.conv.dilation[0])


def _overlap(layer: EncodecConvTranspose1d) -> int:
    """Samples behind its own that an upsampling convolution adds to."""
    return int(layer.conv.kernel_size[0] - layer.conv.stride[0])


def _pad(hidden: torch.Tensor, paddings: tuple[int, int], mode: str) -> torch.Tensor:
    """`EncodecConv1d._pad1d` without a question that the exporter had to answer: how long the utterance is."""
    if mode != "reflect" or not any(paddings):
        return F.pad(hidden, paddings, mode)
    left, right = paddings
    length = hidden.shape[-1]
    # EnCodec lengthens what is too short to be mirrored by zeros, and takes as many off again at the end.
    mirrored = torch.full((), length, dtype=torch.long).clamp(min=max(paddings) + 1)
    behind = length + torch.arange(right)
    index = torch.cat([torch.arange(left, 0, -1), torch.where(behind < mirrored, length, 2 * mirrored - 2 - behind)])
    columns = hidden[..., index.clamp(max=length - 1)] * (index < length)
    return torch.cat([columns[..., :left], hidden, columns[..., left:]], dim=-1)


class Lstm(nn.Module):
    """A unidirectional LSTM over (T, B, C), with a state (B, layers, C) of outputs and one of cells. When exported,
    ONNX operators: the exporter would unroll or loop over the frames."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm, self.hidden_size, self.num_layers = lstm, lstm.hidden_size, lstm.num_layers
        for layer in range(lstm.num_layers):
            # torch has the gates in the order input, forget, cell, output; ONNX input, output, forget, cell.
            weights = [
                getattr(lstm, f"{name}_l{layer}").detach().unflatten(0, (4, -1))[[0, 3, 1, 2]].flatten(0, 1)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            self.register_buffer(f"input_weight_{layer}", weights[0][None])
            self.register_buffer(f"state_weight_{layer}", weights[1][None])
            self.register_buffer(f"bias_{layer}", torch.cat(weights[2:])[None])

    def forward(
        self, hidden: torch.Tensor, outputs: torch.Tensor | None = None, cells: torch.Tensor | None = None
    ) -> Tensors:
        if outputs is None or cells is None:
            outputs = cells = hidden.new_zeros(hidden.shape[1], self.num_layers, self.hidden_size)
        if not torch.onnx.is_in_onnx_export():
            state = outputs.transpose(0, 1).contiguous(), cells.transpose(0, 1).contiguous()
            hidden, (last, cell) = self.lstm(hidden, state)
            return hidden, last.transpose(0, 1), cell.transpose(0, 1)
        lasts, new_cells = [], []
        for layer in range(self.num_layers):
            names = (f"input_weight_{layer}", f"state_weight_{layer}", f"bias_{layer}")
            state = outputs[:, layer][None], cells[:, layer][None]
            num_frames, batch = hidden.shape[:2]
            hidden, last, cell = torch.onnx.ops.symbolic_multi_out(
                "LSTM",
                (hidden, *(getattr(self, name) for name in names), None, *state),
                {"hidden_size": self.hidden_size},
                dtypes=[hidden.dtype] * 3,
                shapes=[(num_frames, 1, batch, self.hidden_size), *[(1, batch, self.hidden_size)] * 2],
            )
            hidden = hidden.squeeze(1)
            lasts.append(last[0])
            new_cells.append(cell[0])
        return hidden, torch.stack(lasts, dim=1), torch.stack(new_cells, dim=1)


class SmallCodecEncoderGraph(nn.Module):
    """Recordings to the codes of the small codec; the Fourier transform is a convolution."""

    def __init__(self, codec: SmallCodecModel, num_codebooks: int) -> None:
        super().__init__()
        self.codec, self.num_codebooks = codec, num_codebooks

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        codec: Any = self.codec
        hidden, _ = codec.encoder(log_mel(codec.mel, audio.flatten(1)))
        return codec.quantizer.encode(codec.latent_proj(hidden), self.num_codebooks)


def log_mel(mel: LogMelSpectrogram, audio: torch.Tensor) -> torch.Tensor:
    """What `LogMelSpectrogram.forward` computes of whole frames, with real numbers: `(B, N)` to `(B, bands, T)`."""
    size, hop = mel.config.mel_fft_size, mel.config.hop_length
    margin = (size - hop) // 2
    basis = torch.cat(fourier_basis(size)) * torch.hann_window(size)
    parts = F.conv1d(F.pad(audio, (margin, margin))[:, None], basis[:, None], stride=hop)
    cosines, sines = parts.chunk(2, dim=1)
    magnitudes = (cosines**2 + sines**2).sqrt()
    return (mel.filters.T @ magnitudes).clamp(min=1e-5).log()


class EncodecEncoderGraph(nn.Module):
    """Recordings to the codes of EnCodec."""

    def __init__(self, codec: EncodecModel, num_codebooks: int) -> None:
        super().__init__()
        self.codec, self.num_codebooks = plain_copy(codec), num_codebooks
        self.bandwidth = codebook_options(codec, num_codebooks).get("bandwidth")

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        codes = self.codec.quantizer.encode(self.codec.encoder(audio.flatten(1)[:, None]), self.bandwidth)
        return codes.transpose(0, 1)[:, : self.num_codebooks]


class WholeDecoderGraph(nn.Module):
    """The decoder of any codec: codes of whole utterances of one length, `(B, Q, T)`, to waveforms `(B, N)`."""

    def __init__(self, codec: PreTrainedModel) -> None:
        super().__init__()
        self.codec = plain_copy(codec)

    def forward(self, audio_codes: torch.Tensor) -> torch.Tensor:
        return _decode(self.codec, audio_codes)


def plain_copy(codec: PreTrainedModel) -> Any:
    """A copy of a codec as it can be exported: plain weights, constant paddings, LSTMs as operators."""
    # No deep copy, which would share the classes that parametrizations are removed from.
    copy = type(codec)(codec.config).eval()
    copy.load_state_dict(codec.state_dict())
    for module in list(copy.modules()):
        if is_parametrized(module, "weight"):
            remove_parametrizations(module, "weight")
        if isinstance(module, EncodecLSTM):
            module.lstm = Lstm(module.lstm)
        if isinstance(module, EncodecConv1d):
            # Of a tensor, the exporter could not tell that it is constant.
            padding = int(module.padding_total)
            del module.padding_total
            module.padding_total = padding
            module._get_extra_padding_for_conv1d = _no_extra_padding
            module._pad1d = _pad
    return copy


def _no_extra_padding(hidden_states: torch.Tensor) -> int:
    """Of whole frames, the last step is always a whole one."""
    return 0


def streaming_decoder(codec: PreTrainedModel) -> SmallCodecDecoderGraph | EncodecDecoderGraph | None:
    """The decoder of a codec as a graph with a state, or `None` if there is no such graph."""
    if isinstance(codec, SmallCodecModel):
        return SmallCodecDecoderGraph(codec)
    if isinstance(codec, EncodecModel):
        config = codec.config
        is_causal = config.use_causal_conv and config.trim_right_ratio == 1.0
        if is_causal and config.norm_type == "weight_norm" and config.pad_mode != "circular":
            return EncodecDecoderGraph(codec)
    return None


def codec_encoder(codec: PreTrainedModel, num_codebooks: int) -> nn.Module | None:
    """The encoder of a codec as a graph, or `None` if there is none or it is not known how."""
    if isinstance(codec, SmallCodecModel):
        return SmallCodecEncoderGraph(codec, num_codebooks) if codec.encoder is not None else None
    if isinstance(codec, EncodecModel) and codec.config.norm_type == "weight_norm" and not codec.config.normalize:
        return EncodecEncoderGraph(codec, num_codebooks)
    return None


def codec_jobs(codec: PreTrainedModel, config: SmallEConfig, with_encoder: bool) -> dict[str, Any]:
    """The graphs of a codec by their names: module, examples of its inputs, names of its outputs.

    Args:
        codec (`PreTrainedModel`): The codec.
        config ([`SmallEConfig`]): Of the model that it belongs to.
        with_encoder (`bool`): Whether recordings are to be encoded, where that is possible.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, config.num_codebooks, NUM_FRAMES)
    inputs = {"audio_codes": torch.randint(config.codebook_size, shape, generator=generator)}
    decoder, outputs = streaming_decoder(codec), ["audio"]
    if decoder is not None:
        inputs |= {"frame_index": torch.tensor([0, 5]), "num_frames": torch.tensor([NUM_FRAMES, 15])}
        shapes = decoder.state_shapes()
        states = [torch.rand(BATCH, *shape, generator=generator) for shape in shapes]
        inputs |= {f"state_{index}": state for index, state in enumerate(states)}
        outputs += [f"new_state_{index}" for index in range(len(shapes))]
    jobs: dict[str, Any] = {"codec_decoder": (decoder or WholeDecoderGraph(codec), inputs, outputs)}
    encoder = codec_encoder(codec, config.num_codebooks) if with_encoder else None
    if encoder is not None:
        audio = 0.3 * torch.randn(BATCH, NUM_FRAMES, config.frame_length, generator=generator)
        jobs["codec_encoder"] = (encoder, {"audio": audio}, ["audio_codes"])
    return jobs


__all__ = [
    "EncodecDecoderGraph",
    "EncodecEncoderGraph",
    "SmallCodecDecoderGraph",
    "SmallCodecEncoderGraph",
    "WholeDecoderGraph",
    "codec_encoder",
    "codec_jobs",
    "streaming_decoder",
]
