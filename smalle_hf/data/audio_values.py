"""What data sets put into an audio column: paths, bytes, arrays and decoder objects."""

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile

from .validation import BrokenInputError, BrokenReason


def encode_audio(value: Any, name: str) -> str | bytes:
    """Turns a value of an audio column into a path or into the bytes of an audio file.

    Args:
        value: A path, the bytes of an audio file, a dict with `bytes` or `path`, a dict with `array` (samples, or
            channels by samples) and `sampling_rate`, or a decoder with `get_all_samples()` as `datasets` returns it.
            Arrays become 32-bit float wav, which keeps every sample of 24 bits.
        name (`str`): What to call the audio in an error.

    Returns:
        `str` or `bytes`: Path, or content of an audio file.

    Raises:
        BrokenInputError: No audio, or a value of another kind.

    Example:
        >>> import numpy as np
        >>> from smalle_hf.data.audio_values import encode_audio
        >>> encode_audio({"array": np.zeros(160), "sampling_rate": 16_000}, "example")[:4]
        b'RIFF'
    """
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for content in (value.get("bytes"), value.get("path")):
            if content and value.get("array") is None:
                return encode_audio(content, name)
        if value.get("array") is not None:
            return _encode_samples(value["array"], value.get("sampling_rate"), name)
    if hasattr(value, "get_all_samples"):
        try:
            samples = value.get_all_samples()
        except (RuntimeError, ValueError, OSError) as error:
            raise BrokenInputError(BrokenReason.UNREADABLE_AUDIO, name, " ".join(str(error).split())) from error
        return _encode_samples(samples.data, samples.sample_rate, name)
    if not value or isinstance(value, Mapping):
        raise BrokenInputError(BrokenReason.TEXT_WITHOUT_AUDIO, name, "the audio value is empty")
    raise BrokenInputError(BrokenReason.BAD_METADATA, name, f"cannot read audio from a {type(value).__name__}")


def _encode_samples(samples: Any, sampling_rate: Any, name: str) -> bytes:
    array = np.asarray(samples)
    if not isinstance(sampling_rate, (int, np.integer)) or sampling_rate <= 0 or array.ndim not in (1, 2):
        detail = f"array of shape {array.shape} with sampling_rate {sampling_rate!r}"
        raise BrokenInputError(BrokenReason.BAD_METADATA, name, detail)
    if array.dtype.kind == "i" and hasattr(samples, "dtype"):  # integers of a list do not tell their full scale
        array = array / float(np.iinfo(array.dtype).max + 1)
    if array.dtype.kind != "f":
        raise BrokenInputError(BrokenReason.BAD_METADATA, name, f"samples of type {array.dtype}")
    if array.ndim == 2 and array.shape[0] < array.shape[1]:  # channels first, as decoders give them
        array = array.T
    file = io.BytesIO()
    soundfile.write(file, array.astype(np.float32), int(sampling_rate), format="WAV", subtype="FLOAT")
    return file.getvalue()
