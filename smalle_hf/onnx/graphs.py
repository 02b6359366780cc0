"""What is exported: the parts of a model as functions of tensors, and the names of these tensors in the graphs.

B batch, S text tokens, Q codebooks, V audio ids per codebook, C = 64 columns, T frames, N samples

| graph           | in                                             | out                                          |
|-----------------|------------------------------------------------|----------------------------------------------|
| text_encoder    | input_ids (B, S), attention_mask (B, S)        | text_0, ...                                  |
| decoder_step    | audio_ids (B, Q), *more*                       | logits (B, Q, V), alignment (B, S), *states* |
| decoder_prefill | audio_ids (B, C, Q), audio_mask (B, C), *more* | *states*                                     |
| codec_decoder   | audio_codes (B, Q, T)                          | audio (B, N)                                 |

*more* is frame_index (B,), attention_mask (B, S), text_0, ... and state_0, ..., of which the decoder gives *states*
back, new_state_0, ...: those of [`SmallECache`]. text_0, ... is what the cross-attention computes of the text, once:
keys, values and, with PACA, the sinusoids of the positions.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from transformers import PreTrainedModel
from transformers.models.encodec.modeling_encodec import EncodecConv1d, EncodecLSTM

from ..cache_smalle import SmallECache
from ..chunked_recurrence import CHUNK_SIZE
from ..codec_smalle import _decode
from ..generation_smalle import _alignment
from ..layers_small_codec import MAX_MAGNITUDE, InverseStft
from ..layers_smalle import positions_in_segments
from ..modeling_small_codec import SmallCodecModel
from ..modeling_smalle import SmallEForSpeechGeneration, SmallEModel

PREFILL_COLUMNS = CHUNK_SIZE
"""Columns that `decoder_prefill` takes at once: a chunk of the recurrence."""


class TextEncoderGraph(nn.Module):
    """Text ids to what the cross-attention reads."""

    def __init__(self, model: SmallEForSpeechGeneration) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = self.model.text_encoder(input_ids, attention_mask).last_hidden_state
        return self.model.cross_attention.project_text(encoded, positions_in_segments(attention_mask, None))


class DecoderGraph(nn.Module):
    """What the two decoder graphs share: columns of audio ids through all blocks.

    Args:
        model ([`SmallEForSpeechGeneration`]): Gives configuration and heads.
        decoder ([`SmallEModel`]): Gives the blocks: the model's own, or fused ones.
        num_text_tensors (`int`): How many tensors there are of the text.
    """

    def __init__(self, model: SmallEForSpeechGeneration, decoder: SmallEModel, num_text_tensors: int) -> None:
        super().__init__()
        self.model, self.decoder = model, decoder
        self.num_text_tensors = num_text_tensors

    def run_blocks(
        self,
        audio_ids: torch.Tensor,
        audio_mask: torch.Tensor | None,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Hidden states, attention maps and new states; `tensors` are the text and the old states."""
        model = self.decoder
        cache = SmallECache(self.model.config, batch_size=0)
        text, cache.states = tensors[: self.num_text_tensors], list(tensors[self.num_text_tensors :])
        positions = frame_index[:, None]
        if audio_mask is not None:
            positions = positions + positions_in_segments(audio_mask, None)
        hidden_states, attentions, states, _ = model._run_blocks(
            model._embed(audio_ids), cache, text, positions, attention_mask.bool()[:, None, :], audio_mask, None
        )
        return hidden_states, attentions, states


class DecoderStepGraph(DecoderGraph):
    """One column in, the scores of the next one out."""

    def forward(
        self,
        audio_ids: torch.Tensor,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        hidden_states, attentions, states = self.run_blocks(
            audio_ids[:, None], None, frame_index, attention_mask, tensors
        )
        # The heads as a product of three dimensions, as all others: it is put into 8 bits with them.
        logits = self.model.compute_logits(hidden_states)[:, 0]
        return logits, _alignment(attentions[:, :, 0], self.model.config), *states


class DecoderPrefillGraph(DecoderGraph):
    """A chunk of known columns in, nothing but the new states out. Columns of padding change nothing."""

    def forward(
        self,
        audio_ids: torch.Tensor,
        audio_mask: torch.Tensor,
        frame_index: torch.Tensor,
        attention_mask: torch.Tensor,
        tensors: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        return tuple(self.run_blocks(audio_ids, audio_mask, frame_index, attention_mask, tensors)[2])


class CodecDecoder(nn.Module):
    """Codes of whole utterances of one length to waveforms, in PyTorch."""

    def __init__(self, codec: PreTrainedModel) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, audio_codes: torch.Tensor) -> torch.Tensor:
        return _decode(self.codec, audio_codes)


class CodecDecoderGraph(CodecDecoder):
    """The same as it can be exported."""

    def __init__(self, codec: PreTrainedModel) -> None:
        # No deep copy, which would share the classes that parametrizations are removed from.
        super().__init__(type(codec)(codec.config).eval())
        self.codec.load_state_dict(codec.state_dict())
        for module in list(self.codec.modules()):
            if is_parametrized(module, "weight"):
                remove_parametrizations(module, "weight")
            if isinstance(module, EncodecLSTM):
                module.lstm = Lstm(module.lstm)
            if isinstance(module, EncodecConv1d) and int(module.stride) == 1:
                # Of a tensor, the exporter could not tell that it is constant.
                padding = int(module.padding_total)
                del module.padding_total
                module.padding_total = padding
                module._get_extra_padding_for_conv1d = _no_extra_padding


class Lstm(nn.Module):
    """A unidirectional LSTM over (T, B, C) as ONNX operators: the exporter would unroll or loop over the frames."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = lstm.hidden_size, lstm.num_layers
        for layer in range(lstm.num_layers):
            # torch has the gates in the order input, forget, cell, output; ONNX input, output, forget, cell.
            weights = [
                getattr(lstm, f"{name}_l{layer}").detach().unflatten(0, (4, -1))[[0, 3, 1, 2]].flatten(0, 1)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            self.register_buffer(f"input_weight_{layer}", weights[0][None])
            self.register_buffer(f"state_weight_{layer}", weights[1][None])
            self.register_buffer(f"bias_{layer}", torch.cat(weights[2:])[None])

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        for layer in range(self.num_layers):
            names = (f"input_weight_{layer}", f"state_weight_{layer}", f"bias_{layer}")
            num_frames, batch = hidden_states.shape[:2]
            hidden_states = torch.onnx.ops.symbolic(
                "LSTM",
                (hidden_states, *(getattr(self, name) for name in names)),
                {"hidden_size": self.hidden_size},
                dtype=hidden_states.dtype,
                shape=(num_frames, 1, batch, self.hidden_size),
            ).squeeze(1)
        return (hidden_states,)


def _no_extra_padding(hidden_states: torch.Tensor) -> int:
    """With stride 1 the last step is always a whole one."""
    return 0


class SmallCodecDecoderGraph(nn.Module):
    """The same for the small codec, whose inverse STFT the runtime has no operator for: it is a transposed convolution
    with windowed sines and cosines here, which adds overlapping frames up as well."""

    def __init__(self, codec: SmallCodecModel) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, audio_codes: torch.Tensor) -> torch.Tensor:
        latents = self.codec.quantizer.decode(audio_codes).transpose(1, 2)
        condition = self.codec._condition(audio_codes.shape[1])
        return invert_stft(self.codec.head, self.codec.decoder(latents, None, condition)[0])


def invert_stft(head: InverseStft, hidden_states: torch.Tensor) -> torch.Tensor:
    """What `InverseStft.forward` computes of whole utterances, with real numbers.

    Args:
        head ([`InverseStft`]): Gives the projection and the sizes.
        hidden_states (`torch.Tensor` of shape `(B, T, C)`): One vector per frame.

    Returns:
        `torch.Tensor` of shape `(B, T * hop_length)`.
    """
    size, hop = head.config.istft_size, head.config.hop_length
    log_magnitude, phase = head.out_proj(hidden_states).chunk(2, dim=-1)
    magnitude = log_magnitude.exp().clamp(max=MAX_MAGNITUDE)
    spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=-1).transpose(1, 2)
    window = torch.hann_window(size)
    frequencies = torch.arange(size // 2 + 1)
    # The product of the integers is reduced first: the angle would lose its digits.
    angles = (frequencies[:, None] * torch.arange(size) % size) * (2 * math.pi / size)
    # Bins between the first and the last stand for their mirror images as well; the imaginary part of these two is 0.
    weights = torch.where((frequencies == 0) | (frequencies == size // 2), 1.0, 2.0)[:, None] / size
    basis = torch.cat([angles.cos() * weights, -angles.sin() * weights]) * window
    audio = F.conv_transpose1d(spectrum, basis[:, None], stride=hop)
    weight = F.conv_transpose1d(torch.ones_like(spectrum[:, :1]), (window**2)[None, None], stride=hop)
    margin = (size - hop) // 2
    audio = audio / weight.clamp(min=1e-11)
    return audio[:, 0, margin : audio.shape[-1] - margin]


def codec_graph(codec: Any) -> nn.Module:
    """The decoder of a codec as a function of its codes."""
    return SmallCodecDecoderGraph(codec) if isinstance(codec, SmallCodecModel) else CodecDecoderGraph(codec)


__all__ = [
    "PREFILL_COLUMNS",
    "CodecDecoder",
    "CodecDecoderGraph",
    "DecoderPrefillGraph",
    "DecoderStepGraph",
    "SmallCodecDecoderGraph",
    "TextEncoderGraph",
    "codec_graph",
    "invert_stft",
]
