"""Small random codecs of every kind that can be decoded piece by piece."""

import functools
import json
from typing import Any

import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, PreTrainedModel

from smalle_hf import SmallCodecConfig, SmallCodecModel


def small_codec_config(**options: Any) -> SmallCodecConfig:
    sizes: dict[str, Any] = {
        "hop_length": 32,
        "istft_size": 128,
        "mel_fft_size": 128,
        "num_mel_bins": 16,
        "codebook_size": 30,
        "codebook_dim": 8,
        "encoder_hidden_size": 12,
        "num_encoder_layers": 1,
        "decoder_hidden_size": 16,
        "num_decoder_layers": 3,
    }
    return SmallCodecConfig(**{**sizes, **options})


def encodec_config(**options: Any) -> EncodecConfig:
    sizes: dict[str, Any] = {
        "num_filters": 4,
        "hidden_size": 8,
        "codebook_dim": 8,
        "codebook_size": 32,
        "upsampling_ratios": [4, 3, 2],
        "num_lstm_layers": 2,
        "target_bandwidths": [20.0],
    }
    return EncodecConfig(**{**sizes, **options})


def dac_config(**options: Any) -> DacConfig:
    sizes: dict[str, Any] = {
        "encoder_hidden_size": 4,
        "downsampling_ratios": [2, 4],
        "decoder_hidden_size": 16,
        "upsampling_ratios": [4, 2],
        "n_codebooks": 4,
        "codebook_size": 32,
        "codebook_dim": 4,
    }
    return DacConfig(**{**sizes, **options})


def lively_codec(codec: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Random weights under which a wrong sample shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*codec.named_parameters(), *codec.named_buffers()]:
            if "codebook" in name or name.endswith("embed"):
                if tensor.is_floating_point():
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))
            elif tensor.ndim == 1 and isinstance(tensor, torch.nn.Parameter) and "norm" not in name:
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return codec.eval()


CODECS = {
    "small": lambda: _built(SmallCodecModel, small_codec_config()),
    "small with more look-ahead": lambda: _built(SmallCodecModel, small_codec_config(decoder_layer_lookahead=2)),
    "encodec": lambda: _built(EncodecModel, encodec_config()),
    "encodec, identity shortcut": lambda: _built(EncodecModel, encodec_config(use_conv_shortcut=False)),
    "encodec, not causal": lambda: _built(EncodecModel, encodec_config(use_causal_conv=False)),
    "encodec, zeros": lambda: _built(EncodecModel, encodec_config(pad_mode="constant")),
    "encodec, trimmed on both sides": lambda: _built(EncodecModel, encodec_config(trim_right_ratio=0.5)),
    "encodec, dilated": lambda: _built(
        EncodecModel, encodec_config(num_residual_layers=3, use_causal_conv=False, pad_mode="replicate")
    ),
    "dac": lambda: _built(DacModel, dac_config()),
    "dac, odd stride": lambda: _built(DacModel, dac_config(upsampling_ratios=[5, 2], downsampling_ratios=[2, 5])),
}
"""Functions that build the codecs, by what is special about each."""


def _built(model_class: Any, config: Any) -> PreTrainedModel:
    return _cached(model_class, config.to_json_string())


@functools.cache
def _cached(model_class: Any, config: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return lively_codec(model_class(model_class.config_class(**json.loads(config))))


def random_codec_codes(codec: PreTrainedModel, num_frames: int, batch_size: int = 1, seed: int = 0) -> torch.Tensor:
    """Codes of shape `(B, T, Q)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(codec.config.codebook_size, (batch_size, num_frames, 4), generator=generator)
