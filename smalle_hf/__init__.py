"""Small-E: a small text-to-speech language model with linear attention, for Hugging Face Transformers.

Importing the package registers its classes with Transformers' Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForTextToWaveform, AutoProcessor

from .cache_smalle import SmallECache
from .configuration_small_codec import SmallCodecConfig
from .configuration_smalle import SmallEConfig
from .delay_pattern import apply_delay, revert_delay
from .long_form import SpeechChunk, SpokenWord, stream_speech
from .modeling_small_codec import SmallCodecModel
from .modeling_smalle import SmallEForSpeechGeneration, SmallEModel
from .outputs_smalle import SmallEAudioChunk, SmallEGenerateOutput, SmallEModelOutput, SmallEOutput
from .processing_smalle import SmallEProcessor
from .streaming_smalle import AudioStreamer

__version__ = "0.1.0"

AutoConfig.register("small_codec", SmallCodecConfig)
AutoModel.register(SmallCodecConfig, SmallCodecModel)
AutoConfig.register("small_e", SmallEConfig)
# `AutoModel` gives the model that speaks: the bare one has no use of its own.
AutoModel.register(SmallEConfig, SmallEForSpeechGeneration)
AutoModelForTextToWaveform.register(SmallEConfig, SmallEForSpeechGeneration)
AutoProcessor.register(SmallEConfig, SmallEProcessor)

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
    "revert_delay",
    "stream_speech",
]
