"""Lines of text and metadata files, streamed."""

import gzip
import os
import zlib
from collections.abc import Iterator

from .validation import SpeechSourceError


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Streams the lines of a file, plain or gzipped, with their numbers from 1; blank lines are left out.

    Raises:
        SpeechSourceError: There is no such file, or its compressed stream is damaged.

    Example:
        >>> from smalle_hf.data.text_files import read_lines
        >>> for number, line in read_lines("LJSpeech-1.1/metadata.csv"):
        ...     print(number, line.decode().strip())
        1 LJ001-0001|In 1465.|In fourteen sixty-five.
    """
    opener = gzip.open if os.fspath(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise SpeechSourceError(f"cannot read {os.fspath(path)} to its end ({error}): fetch it again") from error


def read_text_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Like `read_lines`, decoded. Bytes that are not UTF-8 become surrogate escapes, which the row check refuses."""
    for number, line in read_lines(path):
        text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a whole small text file as one line, with the same decoding."""
    return " ".join(text.strip() for _, text in read_text_lines(path))
