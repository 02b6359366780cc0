"""Configuration of the small frame-rate codec: log-mel, ConvNeXt, residual quantiser, ConvNeXt, inverse STFT."""

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils.type_validators import interval, positive_int_field


@strict
class SmallCodecConfig(PreTrainedConfig):
    r"""
    Configuration of a [`SmallCodecModel`]. The defaults are those of the demo voice: 16 kHz, 50 frames per second,
    four codebooks of 512 entries, 1.8 kbit/s.

    Args:
        sampling_rate (`int`, defaults to 16000): Of the audio, in Hz.
        hop_length (`int`, defaults to 320): Samples per frame.
        num_codebooks (`int`, defaults to 4): Codebooks Q of the residual quantiser.
        codebook_size (`int`, defaults to 512): Entries of each codebook.
        codebook_dim (`int`, defaults to 64): Width of an entry.
        num_mel_bins (`int`, defaults to 80): Bands of the log-mel spectrogram that the encoder sees.
        mel_fft_size (`int`, defaults to 1024): Window of the log-mel spectrogram in samples.
        encoder_hidden_size (`int`, defaults to 128): Width of the encoder.
        num_encoder_layers (`int`, defaults to 3): ConvNeXt blocks of the encoder; 0 for a decoder alone, as Vocos is.
        decoder_hidden_size (`int`, defaults to 192): Width of the decoder.
        num_decoder_layers (`int`, defaults to 6): ConvNeXt blocks of the decoder.
        expansion (`int`, defaults to 3): Inner width of a block over its width.
        kernel_size (`int`, defaults to 7): Frames that each convolution sees; odd.
        decoder_input_lookahead (`int`, defaults to 2): How many of them are future ones in the decoder's first
            convolution.
        decoder_layer_lookahead (`int`, defaults to 0): The same for each ConvNeXt block of the decoder.
        istft_size (`int`, defaults to 1280): Window of the inverse STFT in samples; `istft_size - hop_length` is even.
        conditioning_num_codebooks (`list[int]`, *optional*): Numbers of codebooks that the decoder was trained with,
            each with layer norms of its own (Vocos for EnCodec: 2, 4, 8, 16). `None`: unconditional, all codebooks.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of every LayerNorm.

    Raises:
        ValueError: A value is of the wrong type or inconsistent with another one.

    Example:

    ```python
    >>> from smalle_hf import SmallCodecConfig, SmallCodecModel

    >>> model = SmallCodecModel(SmallCodecConfig())
    >>> model.config.frame_rate, model.config.lookahead_frames
    (50.0, 4)
    ```"""

    model_type = "small_codec"
    attribute_map: ClassVar[dict[str, str]] = {"num_quantizers": "num_codebooks", "hidden_size": "decoder_hidden_size"}

    sampling_rate: int = positive_int_field(default=16000)
    hop_length: int = positive_int_field(default=320)
    num_codebooks: int = positive_int_field(default=4)
    codebook_size: int = positive_int_field(default=512)
    codebook_dim: int = positive_int_field(default=64)
    num_mel_bins: int = positive_int_field(default=80)
    mel_fft_size: int = positive_int_field(default=1024)
    encoder_hidden_size: int = positive_int_field(default=128)
    num_encoder_layers: int = 3
    decoder_hidden_size: int = positive_int_field(default=192)
    num_decoder_layers: int = positive_int_field(default=6)
    expansion: int = positive_int_field(default=3)
    kernel_size: int = positive_int_field(default=7)
    decoder_input_lookahead: int = 2
    decoder_layer_lookahead: int = 0
    istft_size: int = positive_int_field(default=1280)
    conditioning_num_codebooks: list[int] | None = None
    layer_norm_eps: float = interval(min=0.0)(default=1e-6)

    def validate_architecture(self) -> None:
        """Checks that the values fit together. Part of the `@strict` validation.

        Raises:
            ValueError: Two values contradict each other; the message says which.
        """
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` ({self.kernel_size}) must be odd.")
        if self.num_encoder_layers < 0:
            raise ValueError(f"`num_encoder_layers` ({self.num_encoder_layers}) must not be negative.")
        for name in ("decoder_input_lookahead", "decoder_layer_lookahead"):
            if not 0 <= getattr(self, name) < self.kernel_size:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must lie in 0..{self.kernel_size - 1}.")
        for name in ("mel_fft_size", "istft_size"):
            surplus = getattr(self, name) - self.hop_length
            if surplus < 0 or surplus % 2:
                raise ValueError(f"`{name}` ({getattr(self, name)}) must exceed `hop_length` by an even number.")
        if self.conditioning_num_codebooks and max(self.conditioning_num_codebooks) > self.num_codebooks:
            raise ValueError(
                f"`conditioning_num_codebooks` {self.conditioning_num_codebooks} exceeds `num_codebooks` "
                f"({self.num_codebooks})."
            )

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sampling_rate / self.hop_length

    @property
    def lookahead_frames(self) -> int:
        """Frames after a frame that decide its samples: convolutions, then overlapping synthesis windows."""
        convolutions = self.decoder_input_lookahead + self.num_decoder_layers * self.decoder_layer_lookahead
        return convolutions + math.ceil((self.istft_size - self.hop_length) / (2 * self.hop_length))

    @property
    def target_bandwidths(self) -> list[float]:
        """Bit rate in kbit/s with one codebook, two, and so on, as EnCodec names the number of codebooks."""
        bits = math.log2(self.codebook_size)
        return [round(count * bits * self.frame_rate / 1000, 4) for count in range(1, self.num_codebooks + 1)]


__all__ = ["SmallCodecConfig"]
