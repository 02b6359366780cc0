"""From a folder, manifest or data set of speech to the rows and batches that Small-E is trained on.

Every source gives the columns of [`smalle_hf.data.schema`]. Names are imported on first use, so that importing this
package stays light and needs none of the training extras.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio_segments import AudioHeader as AudioHeader
    from .audio_segments import read_header as read_header
    from .audio_segments import read_segment as read_segment
    from .batching import BucketBatchSampler as BucketBatchSampler
    from .codec_encoder import CodecEncoder as CodecEncoder
    from .collator import SmallECollator as SmallECollator
    from .folders import DatasetRowsBuilder as DatasetRowsBuilder
    from .folders import LibriSpeechBuilder as LibriSpeechBuilder
    from .folders import LibriTTSBuilder as LibriTTSBuilder
    from .folders import LJSpeechBuilder as LJSpeechBuilder
    from .folders import ManifestBuilder as ManifestBuilder
    from .folders import VCTKBuilder as VCTKBuilder
    from .librilight import LibrilightBuilder as LibrilightBuilder
    from .schema import SpeechRow as SpeechRow
    from .schema import speech_features as speech_features
    from .sources import detect_format as detect_format
    from .sources import load_speech as load_speech
    from .token_cache import TokenCache as TokenCache
    from .token_cache import TokenCacheError as TokenCacheError
    from .token_cache import verify_token_cache as verify_token_cache
    from .token_cache import write_shard as write_shard
    from .validation import BrokenFile as BrokenFile
    from .validation import BrokenInput as BrokenInput
    from .validation import BrokenInputError as BrokenInputError
    from .validation import BrokenInputReport as BrokenInputReport
    from .validation import BrokenReason as BrokenReason
    from .validation import SpeechSourceError as SpeechSourceError
    from .validation import TooMuchBrokenInputError as TooMuchBrokenInputError

_MODULES = {
    "audio_segments": ("AudioHeader", "read_header", "read_segment"),
    "batching": ("BucketBatchSampler",),
    "codec_encoder": ("CodecEncoder",),
    "collator": ("SmallECollator",),
    "folders": (
        "DatasetRowsBuilder",
        "LibriSpeechBuilder",
        "LibriTTSBuilder",
        "LJSpeechBuilder",
        "ManifestBuilder",
        "VCTKBuilder",
    ),
    "librilight": ("LibrilightBuilder",),
    "schema": ("SpeechRow", "speech_features"),
    "sources": ("detect_format", "load_speech"),
    "token_cache": ("TokenCache", "TokenCacheError", "verify_token_cache", "write_shard"),
    "validation": (
        "BrokenFile",
        "BrokenInput",
        "BrokenInputError",
        "BrokenInputReport",
        "BrokenReason",
        "SpeechSourceError",
        "TooMuchBrokenInputError",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
