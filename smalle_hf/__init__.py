"""Small-E: a small text-to-speech language model with linear attention, for Hugging Face Transformers.

Importing the package registers its classes with Transformers' Auto classes. Neither Transformers nor torch is imported
before something needs them: `smalle_hf.onnx` speaks without.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .auto_registration import register_when_imported

if TYPE_CHECKING:
    from .cache_smalle import SmallECache
    from .codecs import codec_path
    from .configuration_small_codec import SmallCodecConfig
    from .configuration_smalle import SmallEConfig
    from .delay_pattern import apply_delay, revert_delay
    from .long_form import SpeechChunk, SpokenWord, stream_speech
    from .modeling_small_codec import SmallCodecModel
    from .modeling_smalle import SmallEForSpeechGeneration, SmallEModel
    from .outputs_smalle import SmallEAudioChunk, SmallEGenerateOutput, SmallEModelOutput, SmallEOutput
    from .processing_smalle import SmallEProcessor
    from .streaming_smalle import AudioStreamer
    from .voices import voice_path

__version__ = "0.1.0"

_MODULES = {
    "AudioStreamer": "streaming_smalle",
    "SmallCodecConfig": "configuration_small_codec",
    "SmallCodecModel": "modeling_small_codec",
    "SmallEAudioChunk": "outputs_smalle",
    "SmallECache": "cache_smalle",
    "SmallEConfig": "configuration_smalle",
    "SmallEForSpeechGeneration": "modeling_smalle",
    "SmallEGenerateOutput": "outputs_smalle",
    "SmallEModel": "modeling_smalle",
    "SmallEModelOutput": "outputs_smalle",
    "SmallEOutput": "outputs_smalle",
    "SmallEProcessor": "processing_smalle",
    "SpeechChunk": "long_form",
    "SpokenWord": "long_form",
    "apply_delay": "delay_pattern",
    "codec_path": "codecs",
    "revert_delay": "delay_pattern",
    "stream_speech": "long_form",
    "voice_path": "voices",
}
"""Where the public names come from."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value  # found at once from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


register_when_imported()

__all__ = [
    "AudioStreamer",
    "SmallCodecConfig",
    "SmallCodecModel",
    "SmallEAudioChunk",
    "SmallECache",
    "SmallEConfig",
    "SmallEForSpeechGeneration",
    "SmallEGenerateOutput",
    "SmallEModel",
    "SmallEModelOutput",
    "SmallEOutput",
    "SmallEProcessor",
    "SpeechChunk",
    "SpokenWord",
    "apply_delay",
    "codec_path",
    "revert_delay",
    "stream_speech",
    "voice_path",
]
