"""Chapters of Libri-Light: where they lie in the tree, and the `.json` beside each `.flac`."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .tree import path_inside, walk_tree
from .validation import BrokenInputError, BrokenReason

NUM_CACHED_CHAPTERS = 256
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


class ChapterTree:
    """The chapters of a tree, with the metadata of the last ones that were asked for.

    It is no part of the builder's module because `datasets` replaces the path functions there by slow ones.

    Args:
        root (`str`): Folder that holds the subsets.
        subsets (tuple of `str`): Subsets that are wanted; empty means all.
        min_snr (`float`, *optional*): Least signal-to-noise ratio of a wanted chapter, in dB.
    """

    def __init__(self, root: str, subsets: tuple[str, ...] = (), min_snr: float | None = None):
        self.root = os.path.abspath(root)
        self.subsets = subsets
        self.min_snr = min_snr
        self.locate = lru_cache(NUM_CACHED_CHAPTERS)(self._locate)
        self.metadata = lru_cache(NUM_CACHED_CHAPTERS)(self._metadata)

    def paths(self) -> Iterator[str | BrokenInputError]:
        """Yields the paths of the chapters in the wanted subsets, and errors for links that run in a circle."""
        for subset in self.subsets or ("",):
            for folder in walk_tree(self.root, subset):
                if isinstance(folder, BrokenInputError):
                    yield folder
                    continue
                yield from (entry.path for entry in folder.files if entry.name.endswith(".flac"))

    def stem(self, path: str) -> str:
        """The path of a chapter below the root, without suffix: Libriheavy's recording id."""
        return os.path.splitext(os.path.relpath(path, self.root))[0]

    def is_wanted(self, path: str) -> bool:
        """Whether subset and signal-to-noise ratio of a chapter are wanted.

        Raises:
            BrokenInputError: The ratio matters and is not known.
        """
        if self.subsets and subset_and_speaker(path)[0] not in self.subsets:
            return False
        if self.min_snr is None or not os.path.exists(path):
            return True
        snr = self.required_metadata(path).snr
        if snr is None:
            raise BrokenInputError(BrokenReason.BAD_METADATA, path, "no snr in the .json beside it")
        return snr >= self.min_snr

    def required_metadata(self, path: str) -> Chapter:
        """Like `metadata`, but a missing `.json` file is an error."""
        return self.metadata(path) or read_chapter(path)

    def _metadata(self, path: str) -> Chapter | None:
        """The metadata of a chapter, or None where there is no `.json` file beside it."""
        return read_chapter(path) if os.path.exists(os.path.splitext(path)[0] + ".json") else None

    def _locate(self, audio: str, recording: str) -> str:
        """The path of the audio that a cut names; where there is none, the path where it should be."""
        path = path_inside(self.root, audio)
        if os.path.isfile(path):
            return path
        # Prepared manifests have the preparer's folders in front: "download/librilight/medium/...".
        by_id = path_inside(self.root, recording + os.path.splitext(audio)[1])
        return by_id if os.path.isfile(by_id) else path


def subset_and_speaker(path: str) -> tuple[str | None, str | None]:
    """Reads subset and speaker off a chapter's path `.../<subset>/<speaker>/<book>/<file>.flac`.

    Example:
        >>> from smalle_hf.data.chapters import subset_and_speaker
        >>> subset_and_speaker("/data/medium/100/emma_64kb_mp3/emma_01_64kb.flac")
        ('medium', '100')
    """
    parts = path.split(os.sep)
    return (parts[-4], parts[-3]) if len(parts) >= 4 else (None, None)


def _parse_chapter(values: dict[str, Any]) -> Chapter:
    speaker, snr = values.get("speaker"), values.get("snr")
    language = (values.get("book_meta") or {}).get("language")
    return Chapter(
        speaker=None if speaker is None else str(speaker),
        language=None if language is None else str(language),
        snr=None if snr is None else float(snr),
        voice_activity=tuple((float(onset), float(offset)) for onset, offset in values.get("voice_activity") or ()),
    )
