"""Small-E as ONNX graphs: `smalle export` writes them, and these classes speak with them, without torch."""

from .configuration import SmallEOnnxConfig
from .long_form import stream_speech
from .modeling import SmallEOnnxModel
from .outputs import SmallEOnnxChunk, SmallEOnnxOutput
from .processing import SmallEOnnxProcessor

__all__ = [
    "SmallEOnnxChunk",
    "SmallEOnnxConfig",
    "SmallEOnnxModel",
    "SmallEOnnxOutput",
    "SmallEOnnxProcessor",
    "stream_speech",
]
