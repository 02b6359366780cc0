"""Audio in and out: recordings of any kind as mono waveforms at one rate, and waveforms as files."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from .file_replacement import replace_file

FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
"""File name suffix to container and encoding."""

MAX_CHANNELS = 32


def as_recordings(audio: Any) -> list[Any]:
    """A list of recordings, of which each may be samples in a list.

    Raises:
        ValueError: The list is empty.
    """
    is_batch = isinstance(audio, (list, tuple)) and not (
        audio and np.isscalar(audio[0]) and not isinstance(audio[0], str)
    )
    recordings = list(audio) if is_batch else [audio]
    if not recordings:
        raise ValueError("`audio` is an empty list: pass at least one recording.")
    return recordings


def read_audio(audio: Any, sampling_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Reads one recording and mixes it to mono.

    Args:
        audio (`str`, `Path`, `np.ndarray`, `torch.Tensor`, `list[float]` or `dict`): A file; samples of shape
            `(samples,)` or `(channels, samples)`, floating point with full scale 1.0 or integer PCM; or a dictionary
            with `array` and `sampling_rate`, or with `bytes` or `path`, as `datasets` gives it.
        sampling_rate (`int`, *optional*): Rate of samples in Hz. Files and dictionaries have their own.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32, and its rate in Hz.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: The audio is of another type, or its samples are no numbers.
        ValueError: The file cannot be decoded, the rate is missing, or the audio is empty or not finite or has no
        possible shape.
    """
    if isinstance(audio, Mapping):
        sampling_rate = audio.get("sampling_rate") or sampling_rate
        audio = next((audio[key] for key in ("array", "bytes", "path") if audio.get(key) is not None), None)
    elif hasattr(audio, "get_all_samples"):  # the decoder that `datasets` gives where torchcodec is installed
        decoded = audio.get_all_samples()
        audio, sampling_rate = decoded.data, decoded.sample_rate
    if isinstance(audio, (str, os.PathLike, bytes)):
        samples, sampling_rate = _decode_file(audio)
    else:
        samples = _as_samples(audio)
    if sampling_rate is None or sampling_rate <= 0:
        raise ValueError(f"The audio needs its rate in Hz, got {sampling_rate}: pass `sampling_rate`.")
    if not samples.size:
        raise ValueError("The audio is empty: pass a recording with at least one sample.")
    mono = samples.mean(axis=0, dtype=np.float32) if samples.ndim == 2 else samples
    if not np.isfinite(mono).all():
        raise ValueError("The audio holds NaN or infinite samples: repair or drop the recording.")
    return mono, int(sampling_rate)


def _decode_file(source: Any) -> tuple[np.ndarray, int]:
    name = "the bytes" if isinstance(source, bytes) else f"`{os.fspath(source)}`"
    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise FileNotFoundError(f"There is no audio file {name}: check the path.")
    try:
        samples, rate = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32", always_2d=True
        )
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"Cannot decode {name} ({error}): convert it to wav, flac, ogg or mp3.") from None
    return samples.T, rate


def _as_samples(audio: Any) -> np.ndarray:
    """float32 samples of shape `(samples,)` or `(channels, samples)`."""
    if hasattr(audio, "detach"):  # a tensor, told without torch, which speaking with exported graphs does without
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    if not isinstance(audio, (np.ndarray, list, tuple)):
        raise TypeError(f"Audio of type {type(audio).__name__} is unknown: pass a path, an array or a dictionary.")
    try:
        samples = np.asarray(audio)
    except ValueError:
        raise TypeError(
            "Audio must be samples of one length per channel: pass several recordings as a list."
        ) from None
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[0] <= MAX_CHANNELS):
        raise ValueError(
            f"Audio must have shape (samples,) or (channels, samples), got {samples.shape}: transpose it."
        )
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / (np.iinfo(samples.dtype).max + 1.0)
    if not np.issubdtype(samples.dtype, np.floating):
        raise TypeError(f"Audio must be floating point or integer PCM, got {samples.dtype}: convert it.")
    return samples.astype(np.float32)


def resample_audio(waveform: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Brings a waveform to another rate.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono audio.
        sampling_rate (`int`): Its rate in Hz.
        target_rate (`int`): The rate to bring it to, in Hz.

    Returns:
        `np.ndarray` of shape `(samples * target_rate / sampling_rate,)`, float32.

    Raises:
        ValueError: The audio is too short to have a sample at the new rate.
    """
    if sampling_rate != target_rate:
        waveform = soxr.resample(waveform, sampling_rate, target_rate)
    if not waveform.size:
        raise ValueError(f"The audio is too short to be resampled from {sampling_rate} to {target_rate} Hz.")
    return waveform.astype(np.float32, copy=False)


def check_audio_path(path: str | os.PathLike) -> Path:
    """Refuses a file name whose suffix names no format that can be written.

    Raises:
        ValueError: The suffix is unknown or absent.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        supported = ", ".join(FORMATS)
        raise ValueError(f"Cannot write audio to `{path.name}`: use one of the suffixes {supported}.")
    return path


def write_audio(waveform: np.ndarray, path: str | os.PathLike, sampling_rate: int) -> Path:
    """Writes a waveform as the suffix says; an interrupted write leaves no half file behind.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono audio. Above full scale (1.0) it is made quieter as a
            whole, not clipped.
        path (`str` or `Path`): A file that ends in .wav, .flac (both 16 bit) or .ogg (Vorbis).
        sampling_rate (`int`): Rate in Hz.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: The suffix is unknown, or the audio is empty or not finite.
    """
    path = check_audio_path(path)
    if not waveform.size or not np.isfinite(waveform).all():
        raise ValueError("The audio is empty or holds NaN or infinite samples: there is nothing to write.")
    waveform = (waveform / max(1.0, float(np.abs(waveform).max()))).astype(np.float32)
    container, encoding = FORMATS[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replace_file(path) as temporary,
        soundfile.SoundFile(temporary, "w", sampling_rate, 1, encoding, format=container) as file,
    ):
        # libsndfile's Vorbis encoder overflows its stack on a long block.
        for start in range(0, len(waveform), sampling_rate):
            file.write(waveform[start : start + sampling_rate])
    return path


__all__ = ["FORMATS", "as_recordings", "check_audio_path", "read_audio", "resample_audio", "write_audio"]
