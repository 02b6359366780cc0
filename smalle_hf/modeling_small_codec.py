"""A small neural codec that works at the frame rate (no sample-rate convolutions), with EnCodec's `encode` and
`decode`.

Encoder: log-mel spectrogram, ConvNeXt blocks. Residual vector quantiser (RVQ). Decoder: ConvNeXt blocks, a linear
layer that gives magnitude and phase, inverse STFT: the Vocos decoder (arXiv 2306.00814), here with convolutions that
see few or no future frames, so that it also runs chunk by chunk with a state of fixed size.

    B batch, Q codebooks, T frames, C channels, D `codebook_dim`, N samples
    frame t is the samples t * hop_length to (t + 1) * hop_length; every window is centred on its frame.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput

from .configuration_small_codec import SmallCodecConfig
from .layers_small_codec import (
    ConditionalLayerNorm,
    ConvNextBlock,
    ConvNextStack,
    InverseStft,
    LogMelSpectrogram,
    ResidualVectorQuantizer,
    SmallCodecDecoderState,
)


@dataclass
class SmallCodecOutput(ModelOutput):
    """Output of [`SmallCodecModel.forward`].

    Args:
        audio_codes (`torch.LongTensor` of shape `(1, B, Q, T)`): Codes, laid out as EnCodec's.
        audio_values (`torch.FloatTensor` of shape `(B, 1, N)`): The audio that the codes decode to.
    """

    audio_codes: torch.Tensor
    audio_values: torch.Tensor | None = None


@dataclass
class SmallCodecEncoderOutput(ModelOutput):
    """Output of [`SmallCodecModel.encode`].

    Args:
        audio_codes (`torch.LongTensor` of shape `(1, B, Q, T)`): Codes, laid out as EnCodec's; the first dimension is
            its number of chunks.
        audio_scales (`list`): `[None]`: this codec does not scale its input.
        last_frame_pad_length (`int`): 0: there is only one chunk.
    """

    audio_codes: torch.Tensor
    audio_scales: list[torch.Tensor | None] | None = None
    last_frame_pad_length: int | None = None


@dataclass
class SmallCodecDecoderOutput(ModelOutput):
    """Output of [`SmallCodecModel.decode`].

    Args:
        audio_values (`torch.FloatTensor` of shape `(B, 1, N)`): Audio, `hop_length` samples per frame.
    """

    audio_values: torch.Tensor


class SmallCodecPreTrainedModel(PreTrainedAudioTokenizerBase):
    """Weight initialisation and what Transformers asks of every model."""

    config: SmallCodecConfig
    base_model_prefix = "small_codec"
    main_input_name = "input_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | ConditionalLayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ConvNextBlock):
            init.constant_(module.scale, 1 / module.num_layers)
        elif isinstance(module, ResidualVectorQuantizer):
            init.normal_(module.codebooks)
        elif isinstance(module, LogMelSpectrogram):
            # A buffer that is not in the checkpoint is lost when the model is built on the meta device.
            init.copy_(module.filters, module.make_filters())


class SmallCodecModel(SmallCodecPreTrainedModel):
    """The codec. `encode` and `decode` take and give what [`~transformers.EncodecModel`] does.

    Args:
        config ([`SmallCodecConfig`]): With `num_encoder_layers=0` the model has a decoder only.
    """

    def __init__(self, config: SmallCodecConfig) -> None:
        super().__init__(config)
        self.mel = LogMelSpectrogram(config) if config.num_encoder_layers else None
        self.encoder = self.latent_proj = None
        if config.num_encoder_layers:
            centred = config.kernel_size // 2
            self.encoder = ConvNextStack(
                config, config.num_mel_bins, config.encoder_hidden_size, config.num_encoder_layers, (centred, centred)
            )
            self.latent_proj = nn.Linear(config.encoder_hidden_size, config.codebook_dim)
        self.quantizer = ResidualVectorQuantizer(config)
        self.decoder = ConvNextStack(
            config,
            config.codebook_dim,
            config.decoder_hidden_size,
            config.num_decoder_layers,
            (config.decoder_input_lookahead, config.decoder_layer_lookahead),
            len(config.conditioning_num_codebooks or [0]),
        )
        self.head = InverseStft(config)
        self.post_init()

    def embed(self, waveform: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Latents before quantisation.

        Args:
            waveform (`torch.Tensor` of shape `(B, N)`): Audio; zeros on padding.
            mask (`torch.Tensor` of shape `(B, 1, T)`, *optional*): 0 on frames that are padding.

        Returns:
            `torch.Tensor` of shape `(B, T, D)`.

        Raises:
            ValueError: The model has no encoder.
        """
        if self.encoder is None or self.mel is None or self.latent_proj is None:
            raise ValueError("This codec has no encoder: make the codes with the codec that it decodes, as EnCodec.")
        features = self.mel(waveform).to(self.latent_proj.weight.dtype)
        hidden_states, _ = self.encoder(features, mask)
        return self.latent_proj(hidden_states)

    def synthesize(self, latents: torch.Tensor, mask: torch.Tensor | None = None, condition: int = 0) -> torch.Tensor:
        """Audio of whole utterances from quantised latents.

        Args:
            latents (`torch.Tensor` of shape `(B, T, D)`): Sums of codebook entries.
            mask (`torch.Tensor` of shape `(B, 1, T)`, *optional*): 0 on frames that are padding.
            condition (`int`): Index into `config.conditioning_num_codebooks`.

        Returns:
            `torch.Tensor` of shape `(B, T * hop_length)`.
        """
        hidden_states, _ = self.decoder(latents.transpose(1, 2), mask, condition)
        return self.head(hidden_states, mask)[0]

    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        bandwidth: float | None = None,
    ) -> SmallCodecEncoderOutput:
        """Encodes audio into codes.

        Args:
            input_values (`torch.Tensor` of shape `(B, 1, N)`): Audio, full scale 1, at `config.sampling_rate`.
            padding_mask (`torch.Tensor` of shape `(B, N)` or `(B, 1, N)`, *optional*): 1 on audio, 0 on padding at the
                right. Frames of padding get code 0; the others get what they get without padding.
            bandwidth (`float`, *optional*): One of `config.target_bandwidths`, in kbit/s, for fewer codebooks; all of
                them by default.

        Raises:
            ValueError: The audio is not mono, the bandwidth is unknown, or the model has no encoder.
        """
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(f"`input_values` must have shape (batch, 1, samples), got {tuple(input_values.shape)}.")
        num_codebooks = self._num_codebooks(bandwidth)
        waveform, mask = input_values[:, 0], None
        if padding_mask is not None:
            sample_mask = padding_mask.reshape(waveform.shape).bool()
            waveform, mask = waveform * sample_mask, self._frame_mask(sample_mask)
        codes = self.quantizer.encode(self.embed(waveform, mask), num_codebooks)
        if mask is not None:
            codes = codes * mask.long()
        return SmallCodecEncoderOutput(codes[None], [None], 0)

    def decode(
        self,
        audio_codes: torch.Tensor,
        audio_scales: list[torch.Tensor | None] | None = None,
        padding_mask: torch.Tensor | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> SmallCodecDecoderOutput:
        """Decodes the codes of whole utterances.

        Args:
            audio_codes (`torch.LongTensor` of shape `(1, B, Q, T)` or `(B, Q, T)`): From [`encode`] or a language
                model; Q may be less than `config.num_codebooks`.
            audio_scales (`list`, *optional*): Not used; here because EnCodec has it.
            padding_mask (`torch.Tensor` of shape `(B, N)` or `(B, 1, N)`, *optional*): 1 on audio, 0 on padding at the
                right, as in [`encode`]. Frames of padding become silence and the others what they are without padding.
                The audio is cut to N samples.
            last_frame_pad_length (`int`, *optional*): Frames at the end that are dropped.

        Raises:
            ValueError: The codes have the wrong shape, or a number of codebooks that the decoder does not know.
        """
        codes = self._check_codes(audio_codes)
        if last_frame_pad_length:
            codes = codes[..., :-last_frame_pad_length]
        mask = None
        if padding_mask is not None:
            mask = self._frame_mask(padding_mask.reshape(codes.shape[0], -1).bool())[..., : codes.shape[-1]]
        audio = self.synthesize(self.quantizer.decode(codes), mask, self._condition(codes.shape[1]))
        if padding_mask is not None and mask is not None:
            # The last window reaches beyond its frame.
            audio = audio * mask[:, 0].repeat_interleave(self.config.hop_length, dim=-1)
            audio = audio[:, : padding_mask.shape[-1]]
        return SmallCodecDecoderOutput(audio[:, None])

    def decode_chunk(
        self, audio_codes: torch.Tensor, state: SmallCodecDecoderState | None = None, is_last: bool = False
    ) -> tuple[torch.Tensor, SmallCodecDecoderState]:
        """Decodes some more frames of an utterance. All chunks together give the audio that [`decode`] gives.

        Args:
            audio_codes (`torch.LongTensor` of shape `(1, B, Q, T)` or `(B, Q, T)`): The next frames, one or more; may
                be none when `is_last`.
            state ([`SmallCodecDecoderState`], *optional*): From the chunk before.
            is_last (`bool`): No frames follow: give also the samples that waited for them.

        Returns:
            `tuple` of audio of shape `(B, 1, n)`, behind the codes by up to `config.lookahead_frames` frames, and the
            state for the next chunk.
        """
        codes = self._check_codes(audio_codes)
        latents = self.quantizer.decode(codes).transpose(1, 2)
        contexts = state.contexts if state is not None else None
        hidden_states, contexts = self.decoder(latents, None, self._condition(codes.shape[1]), contexts, is_last)
        audio, overlap, weight, trim = self.head(hidden_states, None, state, is_last)
        return audio[:, None], SmallCodecDecoderState(contexts, overlap, weight, trim)

    def forward(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        audio_codes: torch.Tensor | None = None,
    ) -> SmallCodecOutput:
        """Encodes and decodes.

        Args:
            input_values (`torch.Tensor` of shape `(B, 1, N)`): Audio.
            padding_mask (`torch.Tensor` of shape `(B, N)` or `(B, 1, N)`, *optional*): 1 on audio, 0 on padding.
            audio_codes (`torch.LongTensor` of shape `(1, B, Q, T)`, *optional*): Decode these instead.
        """
        if audio_codes is None:
            audio_codes = self.encode(input_values, padding_mask).audio_codes
        audio = self.decode(audio_codes, padding_mask=padding_mask).audio_values[..., : input_values.shape[-1]]
        return SmallCodecOutput(audio_codes, audio)

    def _num_codebooks(self, bandwidth: float | None) -> int:
        if bandwidth is None:
            return self.config.num_codebooks
        if bandwidth not in self.config.target_bandwidths:
            raise ValueError(f"Unknown `bandwidth` {bandwidth}: choose one of {self.config.target_bandwidths}.")
        return self.config.target_bandwidths.index(bandwidth) + 1

    def _frame_mask(self, sample_mask: torch.Tensor) -> torch.Tensor:
        """Mask `(B, N)` of samples to `(B, 1, T)` of frames: a frame counts if any of its samples does."""
        hop = self.config.hop_length
        padded = F.pad(sample_mask, (0, -sample_mask.shape[-1] % hop))
        return padded.reshape(len(padded), 1, -1, hop).any(dim=-1).to(self.dtype)

    def _condition(self, num_codebooks: int) -> int:
        known = self.config.conditioning_num_codebooks
        if not known:
            return 0
        if num_codebooks not in known:
            raise ValueError(
                f"This decoder was trained with {known} codebooks, got {num_codebooks}: keep one of these."
            )
        return known.index(num_codebooks)

    def _check_codes(self, audio_codes: torch.Tensor) -> torch.Tensor:
        codes = audio_codes[0] if audio_codes.ndim == 4 and len(audio_codes) == 1 else audio_codes
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.config.num_codebooks:
            raise ValueError(
                f"`audio_codes` must have shape (1, batch, codebooks <= {self.config.num_codebooks}, frames), got "
                f"{tuple(audio_codes.shape)}."
            )
        return codes


__all__ = [
    "SmallCodecDecoderOutput",
    "SmallCodecDecoderState",
    "SmallCodecEncoderOutput",
    "SmallCodecModel",
    "SmallCodecOutput",
    "SmallCodecPreTrainedModel",
]
