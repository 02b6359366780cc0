"""Audio headers and segments: reads the part of a file that a row covers, by seek, never the whole file."""

import io
import os
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from .schema import SpeechRow
from .validation import BrokenInputError, BrokenReason

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au")
SILENCE_PEAK = 1e-3  # -60 dB full scale: below the noise floor of any recorded room
MP3_FRAME = 1152  # samples: the length in an mp3 header counts coder delay that decoding leaves out
CUT_TOLERANCE = 1e-3  # seconds: manifests round their times


@dataclass(frozen=True)
class AudioHeader:
    """What the header of an audio file says: `sampling_rate` in Hz and `num_samples` per channel."""

    sampling_rate: int
    num_samples: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sampling_rate


def read_header(audio: str | os.PathLike[str] | bytes, name: str | None = None) -> AudioHeader:
    """Reads the header of an audio file and no samples.

    Args:
        audio (`str` or `bytes`): A path, or the content of an audio file.
        name (`str`, *optional*): What to call the audio in an error. Defaults to the path.

    Returns:
        `AudioHeader`: Sampling rate and length.

    Raises:
        BrokenInputError: No such file, not an audio file, no samples, or a wav file shorter than its header says.

    Example:
        >>> from smalle_hf.data import read_header
        >>> read_header("LibriSpeech/test-clean/61/70968/61-70968-0000.flac").duration
        3.5
    """
    name = name or ("embedded audio" if isinstance(audio, bytes) else os.fspath(audio))
    if not isinstance(audio, bytes) and not os.path.isfile(audio):
        raise BrokenInputError(BrokenReason.TEXT_WITHOUT_AUDIO, name, "no such file")
    try:
        with soundfile.SoundFile(_open(audio)) as file:
            header = AudioHeader(file.samplerate, file.frames)
            log = file.extra_info
    except (soundfile.LibsndfileError, OSError) as error:
        raise BrokenInputError(BrokenReason.UNREADABLE_AUDIO, name, _one_line(error)) from error
    if header.num_samples <= 0:
        raise BrokenInputError(BrokenReason.UNREADABLE_AUDIO, name, "no samples")
    # libsndfile shortens a wav file to what is there and only mentions it in its log.
    missing = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if missing and 0 < int(missing[2]) < int(missing[1]) < 0xFFFFFFFF - 0xFFFF:  # near 2**32: a length left open
        raise BrokenInputError(
            BrokenReason.TRUNCATED_AUDIO,
            name,
            f"{missing[2]} bytes of samples where the header announces {missing[1]}",
        )
    return header


def read_segment(row: SpeechRow, sampling_rate: int | None = None) -> np.ndarray:
    """Reads the samples of a row, channels averaged.

    Args:
        row (`SpeechRow`): Any mapping with the columns `id`, `audio_path` or `audio_bytes`, `start`, `duration` and
            `sampling_rate`.
        sampling_rate (`int`, *optional*): Resample to this rate, in Hz. Defaults to the rate of the file.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32, full scale 1.0.

    Raises:
        BrokenInputError: The file is missing, unreadable or truncated, has another rate than the row says, the segment
            ends outside the file, or its samples are silent or not finite.

    Example:
        >>> from smalle_hf.data import load_speech, read_segment
        >>> row = next(iter(load_speech("LJSpeech-1.1", streaming=True)))
        >>> waveform = read_segment(row, sampling_rate=24_000)
    """
    audio = row["audio_bytes"] if row.get("audio_bytes") is not None else row["audio_path"]
    name = row["audio_path"] or f"embedded audio of {row['id']}"
    if audio is None:
        raise BrokenInputError(BrokenReason.TEXT_WITHOUT_AUDIO, name, "neither a path nor bytes", row["id"])
    if not isinstance(audio, bytes) and not os.path.isfile(audio):
        raise BrokenInputError(BrokenReason.TEXT_WITHOUT_AUDIO, name, "no such file", row["id"])
    try:
        with soundfile.SoundFile(_open(audio)) as file:
            _check_bounds(row, file.samplerate, file.frames, name)
            first, num_samples = segment_bounds(row["start"], row["duration"], file.samplerate, file.frames)
            file.seek(first)
            samples = file.read(num_samples, dtype="float32", always_2d=True).mean(axis=1)
            allowed_loss = MP3_FRAME if file.format in ("MP3", "MPEG") else 0
    except (soundfile.LibsndfileError, OSError) as error:
        raise BrokenInputError(BrokenReason.TRUNCATED_AUDIO, name, _one_line(error), row["id"]) from error
    _check_samples(samples, num_samples - allowed_loss, name, row["id"])
    if sampling_rate is None or sampling_rate == row["sampling_rate"]:
        return samples
    return soxr.resample(samples, row["sampling_rate"], sampling_rate)


def segment_bounds(start: float, duration: float, sampling_rate: int, num_samples: int) -> tuple[int, int]:
    """Returns the first sample and the length of a segment given in seconds, clipped to a file of `num_samples`."""
    first = min(max(round(start * sampling_rate), 0), num_samples)
    last = min(round((start + duration) * sampling_rate), num_samples)
    return first, max(last - first, 0)


def check_cut(start: float, duration: float, header: AudioHeader, name: str, id: str | None = None) -> None:
    """Raises `BrokenInputError` when a segment (seconds) is empty or ends outside the file, up to `CUT_TOLERANCE`."""
    end = start + duration
    # Written so that a NaN fails it.
    if not (-CUT_TOLERANCE <= start < end <= header.duration + CUT_TOLERANCE):
        detail = f"{start:.3f} to {end:.3f} s in a file of {header.duration:.3f} s"
        raise BrokenInputError(BrokenReason.CUT_OUTSIDE_FILE, name, detail, id)


def _check_bounds(row: SpeechRow, sampling_rate: int, num_samples: int, name: str) -> None:
    if sampling_rate != row["sampling_rate"]:
        detail = f"{sampling_rate} Hz where {row['sampling_rate']} Hz are expected"
        raise BrokenInputError(BrokenReason.WRONG_SAMPLING_RATE, name, detail, row["id"])
    check_cut(row["start"], row["duration"], AudioHeader(sampling_rate, num_samples), name, row["id"])


def _check_samples(samples: np.ndarray, min_samples: int, name: str, id: str) -> None:
    if len(samples) < max(min_samples, 1):
        detail = f"{len(samples)} samples where {min_samples} are expected"
        raise BrokenInputError(BrokenReason.TRUNCATED_AUDIO, name, detail, id)
    if not np.isfinite(samples).all():
        raise BrokenInputError(BrokenReason.NOT_FINITE, name, "NaN or infinite samples", id)
    peak = float(np.abs(samples).max())
    if peak < SILENCE_PEAK:
        raise BrokenInputError(BrokenReason.SILENCE, name, f"peak {peak:.1e}", id)


def _open(audio: str | os.PathLike[str] | bytes) -> str | BinaryIO:
    return io.BytesIO(audio) if isinstance(audio, bytes) else os.fspath(audio)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
