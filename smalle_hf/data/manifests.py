"""CSV, TSV and JSONL manifests: one line per utterance, with the path of its audio file."""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from .columns import claim, find_columns
from .text_files import read_text_lines
from .tree import path_inside
from .utterances import Utterance
from .validation import BrokenInputError, BrokenReason, SpeechSourceError

MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def read_manifest(
    path: str, root: str | None = None, columns: Mapping[str, str] | None = None, require_text: bool = True
) -> Iterator[Utterance | BrokenInputError]:
    """Streams the utterances of a manifest.

    Args:
        path (`str`): `.jsonl`, or `.csv` and `.tsv` with a header line; each also with `.gz`.
        root (`str`, *optional*): Folder that all audio lies in. Defaults to that of the manifest.
        columns (mapping, *optional*): Columns by role, see [`smalle_hf.data.columns.find_columns`].
        require_text (`bool`, defaults to `True`): Whether there must be a text column.

    Yields:
        `Utterance`, or a `BrokenInputError` for a line that cannot be parsed or whose path leaves the root. Without an
        id column the id is the path, without suffix, followed by the start where there is one.

    Raises:
        SpeechSourceError: Unknown suffix, unreadable file, or missing columns.

    Example:
        >>> from smalle_hf.data.manifests import read_manifest
        >>> utterances = list(read_manifest("corpus/manifest.tsv"))
    """
    root = root or os.path.dirname(os.path.abspath(path))
    roles = lru_cache(maxsize=64)(lambda names: find_columns(names, columns, require_text))
    is_first = True
    for place, record in _records(path):
        if isinstance(record, BrokenInputError):
            yield record
            continue
        try:
            names = roles(tuple(record))
        except SpeechSourceError as error:
            if is_first:
                raise
            yield BrokenInputError(BrokenReason.BAD_METADATA, place, str(error))
            continue
        is_first = False
        try:
            yield _utterance({role: record[name] for role, name in names.items()}, root, place)
        except BrokenInputError as error:
            yield error


def _utterance(values: Mapping[str, Any], root: str, place: str) -> Utterance:
    audio = values["audio"]
    id = str(values.get("id") or "")
    if not isinstance(audio, str) or not audio:
        raise BrokenInputError(BrokenReason.TEXT_WITHOUT_AUDIO, place, f"the audio path is {audio!r}", id or None)
    path = path_inside(root, audio)
    if not id:
        id = os.path.splitext(os.path.relpath(path, root))[0]
        id += f"_{values['start']}" if values.get("start") else ""
    return claim(values, path, id, place)


def _records(path: str) -> Iterator[tuple[str, dict[str, Any] | BrokenInputError]]:
    suffix = os.path.splitext(path.removesuffix(".gz"))[1].lower()
    if suffix == ".jsonl":
        yield from _json_records(path)
    elif suffix in (".csv", ".tsv"):
        yield from _table_records(path, suffix)
    else:
        raise SpeechSourceError(f"{path} is no manifest: it must end in one of {', '.join(MANIFEST_SUFFIXES)}")


def _json_records(path: str) -> Iterator[tuple[str, dict[str, Any] | BrokenInputError]]:
    for number, line in read_text_lines(path):
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            yield place, BrokenInputError(BrokenReason.BAD_METADATA, place, str(error))
            continue
        if isinstance(record, dict):
            yield place, record
        else:
            yield place, BrokenInputError(BrokenReason.BAD_METADATA, place, "not a JSON object")


def _table_records(path: str, suffix: str) -> Iterator[tuple[str, dict[str, Any] | BrokenInputError]]:
    lines = (line + "\n" for _, line in read_text_lines(path))
    # Tab-separated corpora (Common Voice) write quotation marks as they are.
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {}
    rows = csv.reader(lines, strict=False, **dialect)
    header = next(rows, None)
    if header is None:
        raise SpeechSourceError(f"{path} is empty: it needs a header line with the names of the columns")
    while True:
        place = f"{path}:{rows.line_num + 1}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, BrokenInputError(BrokenReason.BAD_METADATA, place, str(error))
            continue
        if len(row) == len(header):
            yield place, dict(zip(header, row, strict=True))
        else:
            detail = f"{len(row)} fields where the header has {len(header)}"
            yield place, BrokenInputError(BrokenReason.BAD_METADATA, place, detail)
