"""The systems that the benchmarks compare, with random weights: speed does not depend on them."""

import importlib
import math
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel

from smalle_hf import SmallCodecConfig, SmallCodecModel, SmallEConfig, SmallEForSpeechGeneration
from smalle_hf.codec_smalle import decode_codes

sys.path.append(str(Path(__file__).resolve().parents[1] / "baselines"))
from decoder_only import (
    DecoderOnlyForSpeechGeneration,
    DelayedDecoding,
    PreallocatedCache,
    equal_size,
)

TOKENS_PER_SECOND = 7.5
"""Text tokens per second of speech: about 15 letters, in byte pairs."""


def vocos_config() -> SmallCodecConfig:
    """The public Vocos decoder for EnCodec at 24 kHz, the paper's."""
    return SmallCodecConfig(
        sampling_rate=24000,
        hop_length=320,
        num_codebooks=16,
        codebook_size=1024,
        codebook_dim=128,
        num_encoder_layers=0,
        decoder_hidden_size=384,
        num_decoder_layers=8,
        expansion=3,
        kernel_size=7,
        decoder_input_lookahead=3,
        decoder_layer_lookahead=3,
        istft_size=1280,
        conditioning_num_codebooks=[2, 4, 8, 16],
    )


def vocos() -> SmallCodecModel:
    """The Vocos decoder at 24 kHz."""
    return SmallCodecModel(vocos_config()).eval()


def encodec() -> EncodecModel:
    """EnCodec at 24 kHz."""
    return EncodecModel(EncodecConfig()).eval()


def random_text(frames: int, config: SmallEConfig, batch_size: int = 1) -> torch.Tensor:
    """Ids of a text that takes about so many frames to say: `(batch_size, tokens)`."""
    num_tokens = math.ceil(frames / config.frame_rate * TOKENS_PER_SECOND) + 2
    return torch.randint(3, config.vocab_size, (batch_size, num_tokens))


def random_columns(columns: int, config: SmallEConfig, batch_size: int = 1) -> torch.Tensor:
    """Delayed ids from the middle of an utterance: `(batch_size, columns, Q)`."""
    shape = (batch_size, columns, config.num_codebooks)
    return torch.randint(config.codebook_offset, config.audio_vocab_size, shape)


class SmallE:
    """Small-E with a codec.

    Args:
        config ([`SmallEConfig`]): With a `codec_config`.
    """

    def __init__(self, config: SmallEConfig) -> None:
        self.model = SmallEForSpeechGeneration(config).eval()

    def speak(self, duration: float, batch_size: int) -> torch.Tensor:
        """Audio of so many seconds, from text ids on: `(batch_size, samples)`."""
        config = self.model.config
        frames = round(duration * config.frame_rate)
        text = random_text(frames, config, batch_size)
        output = self.model.generate(input_ids=text, max_new_tokens=frames, min_new_tokens=frames)
        return output.audio

    @property
    def parts(self) -> list[nn.Module]:
        """Language model without the codec."""
        return [self.model.model, self.model.lm_heads]


class DecoderOnly:
    """The decoder-only baseline of equal size, with the Vocos decoder.

    Args:
        config ([`SmallEConfig`]): The Small-E that it is compared with.
    """

    def __init__(self, config: SmallEConfig) -> None:
        self.model = DecoderOnlyForSpeechGeneration(config, equal_size(config)).eval()
        self.codec = vocos()

    def speak(self, duration: float, batch_size: int) -> torch.Tensor:
        """Audio of so many seconds, from text ids on: `(batch_size, samples)`."""
        config = self.model.config
        frames = round(duration * config.frame_rate)
        text = random_text(frames, config, batch_size)
        output = self.model.generate(text, frames, min_new_tokens=frames)
        with torch.no_grad():
            return decode_codes(self.codec, output["sequences"], None, config.frame_length)

    @property
    def parts(self) -> list[nn.Module]:
        """Language model without the codec."""
        return [self.model]


class PocketTTS:
    """Pocket TTS with its own codec, at the default configuration of Transformers.

    Args:
        is_small (`bool`, defaults to `False`): A toy of the same kind, to see that it runs.

    Raises:
        ImportError: This version of Transformers does not have it yet.
    """

    def __init__(self, is_small: bool = False) -> None:
        library = importlib.import_module("transformers")
        if not hasattr(library, "PocketTTSForConditionalGeneration"):
            raise ImportError(f"Transformers {library.__version__} has no Pocket TTS: install 5.23 or newer.")
        head, body, codec = ({}, {}, {}) if not is_small else SMALL_POCKET_TTS
        config = library.PocketTTSConfig(**body, flow_head_config=library.PocketTTSFlowHeadConfig(**head))
        self.model = library.PocketTTSForConditionalGeneration(config).eval()
        codec_config = library.PocketTTSAudioTokenizerConfig(encoder_config=None, **codec)
        self.codec = library.PocketTTSAudioTokenizerModel(codec_config).eval()

    @torch.no_grad()
    def speak(self, duration: float, batch_size: int) -> torch.Tensor:
        """Audio of so many seconds, from text ids on: `(batch_size, samples)`. No voice prompt has to be read."""
        config = self.model.config
        frames = round(duration * config.frame_rate)
        text = torch.randint(5, 4000, (batch_size, math.ceil(duration * TOKENS_PER_SECOND) + 1))
        text[:, -1] = config.audio_bos_token_id
        output = self.model.generate(
            input_ids=text,
            attention_mask=torch.ones_like(text),
            max_new_tokens=frames,
            eos_threshold=math.inf,
            frames_after_eos=1,
            return_dict_in_generate=True,
        )
        return self.codec.decode(output.audio_latents).audio_values[:, 0]

    @property
    def parts(self) -> list[nn.Module]:
        """Language model without the codec."""
        return [self.model]


SMALL_POCKET_TTS = (
    {"hidden_size": 32, "num_hidden_layers": 1, "condition_dim": 64},
    {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64},
    {"hidden_size": 32, "num_filters": 4, "upsample_groups": 32, "num_hidden_layers": 1, "intermediate_size": 32},
)
"""Flow head, backbone and codec of the toy."""


def num_parameters(parts: list[nn.Module]) -> int:
    """Weights of several modules."""
    return sum(weight.numel() for part in parts for weight in part.parameters())


__all__ = [
    "DecoderOnly",
    "DecoderOnlyForSpeechGeneration",
    "DelayedDecoding",
    "PocketTTS",
    "PreallocatedCache",
    "SmallE",
    "encodec",
    "equal_size",
    "num_parameters",
    "random_columns",
    "random_text",
    "vocos",
    "vocos_config",
]
