"""Chapter metadata of Libri-Light: the `.json` beside each `.flac`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .validation import BrokenInputError, BrokenReason

VAD_FRAME = 0.08  # seconds; Libri-Light's voice activity and `file_length_sec` are multiples of it


@dataclass(frozen=True)
class Chapter:
    """What Libri-Light knows about a chapter.

    Args:
        speaker (`str`, *optional*): LibriVox reader id.
        language (`str`, *optional*): Of the book, as LibriVox writes it ("English").
        snr (`float`, *optional*): Signal-to-noise ratio in dB.
        voice_activity (tuple of `(float, float)`): Begin and end of the spoken parts, in seconds.
    """

    speaker: str | None
    language: str | None
    snr: float | None
    voice_activity: tuple[tuple[float, float], ...]


def read_chapter(audio_path: str) -> Chapter:
    """Reads the metadata beside an audio file.

    Args:
        audio_path (`str`): Path of the `.flac` file.

    Returns:
        `Chapter`: Its metadata.

    Raises:
        BrokenInputError: The `.json` file is missing, not UTF-8, or not what Libri-Light writes.

    Example:
        >>> from smalle_hf.data.chapters import read_chapter
        >>> read_chapter("librilight/small/100/emma_64kb_mp3/emma_01_64kb.flac").snr
        14.2
    """
    path = Path(audio_path).with_suffix(".json")
    try:
        return _parse_chapter(json.loads(path.read_bytes().decode("utf-8")))
    except UnicodeDecodeError as error:
        raise BrokenInputError(BrokenReason.NOT_UTF8, path, str(error)) from error
    except FileNotFoundError as error:
        raise BrokenInputError(BrokenReason.BAD_METADATA, path, "no such file") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenInputError(BrokenReason.BAD_METADATA, path, repr(error)) from error


def _parse_chapter(values: dict[str, Any]) -> Chapter:
    speaker, snr = values.get("speaker"), values.get("snr")
    language = (values.get("book_meta") or {}).get("language")
    return Chapter(
        speaker=None if speaker is None else str(speaker),
        language=None if language is None else str(language),
        snr=None if snr is None else float(snr),
        voice_activity=tuple((float(onset), float(offset)) for onset, offset in values.get("voice_activity") or ()),
    )
