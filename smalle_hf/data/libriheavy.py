"""Libriheavy cut manifests: one lhotse MonoCut per line, times in seconds within the whole chapter."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .text_files import read_lines
from .validation import BrokenInputError, BrokenReason

TEXT_COLUMNS = ("book", "asr", "text")


@dataclass(frozen=True)
class Cut:
    """One line of a manifest.

    Args:
        id (`str`): Cut id, by convention `<recording id>_<number>`.
        start, duration (`float`): Seconds within the recording.
        recording (`str`): Recording id, by convention `<subset>/<speaker>/<book>/<file>` without suffix.
        audio (`str`): Path of the audio file as the manifest has it.
        sampling_rate (`int`): Hz.
        text (`str`, *optional*): The text that was asked for.
        speaker, language (`str`, *optional*): As written in the manifest.
    """

    id: str
    start: float
    duration: float
    recording: str
    audio: str
    sampling_rate: int
    text: str | None
    speaker: str | None
    language: str | None

    @property
    def group(self) -> str:
        """Cuts of one chapter share it, and so do cuts of one id."""
        return self.id.rpartition("_")[0] or self.id


def read_cuts(path: str | os.PathLike[str], text_column: str = "book") -> Iterator[Cut | BrokenInputError]:
    """Streams a cut manifest, plain or gzipped; memory does not grow with its length.

    Args:
        path (`str`): A `.jsonl` or `.jsonl.gz` file.
        text_column (`str`, defaults to `"book"`): `"book"` is `supervisions[0].custom.texts[0]`, with casing and
            punctuation; `"asr"` is `texts[1]`, the recogniser's words; `"text"` is `supervisions[0].text`.

    Yields:
        `Cut`, or a `BrokenInputError` in place of a line that is not UTF-8 or not a cut.

    Raises:
        SpeechSourceError: The file cannot be read to its end.

    Example:
        >>> from smalle_hf.data.libriheavy import read_cuts
        >>> for cut in read_cuts("libriheavy_cuts_small.jsonl.gz"):
        ...     print(cut.speaker, cut.duration, cut.text)
        100 2.0 Emma Woodhouse, handsome.
    """
    for number, line in read_lines(path):
        place = f"{os.fspath(path)}:{number}"
        try:
            yield _parse_cut(json.loads(line.decode("utf-8")), text_column)
        except UnicodeDecodeError as error:
            yield BrokenInputError(BrokenReason.NOT_UTF8, place, str(error))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            yield BrokenInputError(BrokenReason.BAD_METADATA, place, f"not a cut: {error!r}")


def _parse_cut(cut: dict[str, Any], text_column: str) -> Cut:
    recording = cut["recording"]
    supervision = cut["supervisions"][0]
    return Cut(
        id=_string(cut["id"]),
        start=float(cut["start"]),
        duration=float(cut["duration"]),
        recording=_string(recording["id"]),
        audio=_string(recording["sources"][0]["source"]),
        sampling_rate=int(recording["sampling_rate"]),
        text=_text(supervision, text_column),
        speaker=_optional_string(supervision.get("speaker")),
        language=_optional_string(supervision.get("language")),
    )


def _text(supervision: dict[str, Any], text_column: str) -> str | None:
    if text_column == "text":
        return _optional_string(supervision.get("text"))
    texts = (supervision.get("custom") or {}).get("texts") or []
    index = TEXT_COLUMNS.index(text_column)
    return _optional_string(texts[index]) if index < len(texts) else None


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not a string")
    return value


def _optional_string(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value
