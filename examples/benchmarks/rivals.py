"""The systems that the benchmarks compare, with random weights: speed does not depend on them."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel

from smalle_hf import SmallCodecConfig, SmallCodecModel, SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
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


class TorchSystem:
    """A system that computes with PyTorch."""

    def use_threads(self, count: int) -> None:
        """Computes with so many threads from now on."""
        torch.set_num_threads(count)


class SmallE(TorchSystem):
    """Small-E with a codec.

    Args:
        config ([`SmallEConfig`]): With a `codec_config`.
    """

    def __init__(self, config: SmallEConfig) -> None:
        self.model = SmallEForSpeechGeneration(config).eval()
        self.num_parameters = num_parameters([self.model.model, self.model.lm_heads])

    def speak(self, duration: float, batch_size: int) -> torch.Tensor:
        """Audio of so many seconds, from text ids on: `(batch_size, samples)`."""
        config = self.model.config
        frames = round(duration * config.frame_rate)
        text = random_text(frames, config, batch_size)
        output = self.model.generate(input_ids=text, max_new_tokens=frames, min_new_tokens=frames)
        return output.audio


class SmallEOnnx:
    """Small-E with a codec as ONNX graphs with weights in 8 bits.

    Args:
        config ([`SmallEConfig`]): With a `codec_config`.
        folder (`Path`): An exported model of these sizes; it is exported there if there is none.

    Raises:
        ImportError: ONNX Runtime, or what exports a model, is not installed.
    """

    def __init__(self, config: SmallEConfig, folder: Path) -> None:
        importlib.import_module("onnxruntime")
        model = SmallEForSpeechGeneration(config).eval()
        self.num_parameters = num_parameters([model.model, model.lm_heads])
        self.config, self.folder = config, folder
        if not folder.exists():
            heads = model.lm_heads.weight.data.unflatten(0, (config.num_codebooks, -1))
            heads[:, config.audio_eos_token_id] = 0.0  # is never among the best: no utterance ends early
            processor = SmallEProcessor.from_characters(config=config)
            importlib.import_module("smalle_hf.onnx.export").export_model(model, processor, folder)

    def use_threads(self, count: int) -> None:
        """Computes with so many threads from now on."""
        modeling = importlib.import_module("smalle_hf.onnx.modeling")
        self.model = modeling.SmallEOnnxModel.from_pretrained(self.folder, num_threads=count)

    def speak(self, duration: float, batch_size: int) -> Any:
        """Audio of so many seconds, from text ids on: `(batch_size, samples)`."""
        frames = round(duration * self.config.frame_rate)
        text = random_text(frames, self.config, batch_size)
        return self.model.generate(text.numpy(), max_new_tokens=frames).audio


class DecoderOnly(TorchSystem):
    """The decoder-only baseline of equal size, with the Vocos decoder.

    Args:
        config ([`SmallEConfig`]): The Small-E that it is compared with.
    """

    def __init__(self, config: SmallEConfig) -> None:
        self.model = DecoderOnlyForSpeechGeneration(config, equal_size(config)).eval()
        self.codec = vocos()
        self.num_parameters = num_parameters([self.model])

    def speak(self, duration: float, batch_size: int) -> torch.Tensor:
        """Audio of so many seconds, from text ids on: `(batch_size, samples)`."""
        config = self.model.config
        frames = round(duration * config.frame_rate)
        text = random_text(frames, config, batch_size)
        output = self.model.generate(text, frames, min_new_tokens=frames)
        with torch.no_grad():
            return decode_codes(self.codec, output["sequences"], None, config.frame_length)


class PocketTTS(TorchSystem):
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
        self.num_parameters = num_parameters([self.model])

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
    "SmallEOnnx",
    "encodec",
    "equal_size",
    "num_parameters",
    "random_columns",
    "random_text",
    "vocos",
    "vocos_config",
]
