"""Rows of `datasets` data sets that hold audio in any of the usual forms, read without an audio decoder."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import datasets

from .audio_values import encode_audio
from .columns import claim, find_columns
from .tree import path_inside
from .utterances import Utterance
from .validation import BrokenInputError, SpeechSourceError

AnyDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset


def read_dataset(
    dataset: AnyDataset | None,
    takes: Callable[[str], bool] = lambda group: True,
    root: str | None = None,
    columns: Mapping[str, str] | None = None,
    require_text: bool = True,
) -> Iterator[Utterance | BrokenInputError]:
    """Yields the rows of a data set with an audio column.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): One split.
        takes (`Callable[[str], bool]`, *optional*): Which ids to read; a map-style data set skips the others unread.
        root (`str`, *optional*): Folder that relative audio paths start from and that all paths must lie in. Without
            it paths are taken as they are.
        columns (mapping, *optional*): Columns by role, see [`smalle_hf.data.columns.find_columns`].
        require_text (`bool`, defaults to `True`): Whether there must be a text column.

    Yields:
        `Utterance`, or a `BrokenInputError` for a row without usable audio. Without an id column the id is the row's
        number.

    Raises:
        SpeechSourceError: Columns are missing, or the data set is empty.

    Example:
        >>> from smalle_hf.data.dataset_rows import read_dataset
        >>> utterances = list(read_dataset(my_dataset, columns={"text": "sentence"}))
    """
    names = find_columns(_column_names(dataset), columns, require_text)
    rows = _without_decoding(dataset, names["audio"]).select_columns(sorted(set(names.values())))
    labels = {role: feature for role in names if (feature := _class_label(rows, names[role])) is not None}
    for index, record in _numbered_rows(rows, names.get("id"), takes):
        values = {role: record[name] for role, name in names.items()}
        for role, feature in labels.items():
            values[role] = None if values[role] is None else feature.int2str(values[role])
        id = str(values.get("id") or f"{index:08d}")
        place = f"row {index}"
        try:
            audio = encode_audio(values["audio"], place)
            if isinstance(audio, str):
                audio = os.path.abspath(audio) if root is None else path_inside(root, audio)
            yield claim(values, audio, id, place)
        except BrokenInputError as error:
            yield error.with_id(id)


def _column_names(dataset: AnyDataset | None) -> list[str]:
    if dataset is None:
        raise SpeechSourceError("no data set: pass dataset")
    if dataset.column_names is not None:
        return dataset.column_names
    first = next(iter(dataset), None)  # a stream without a schema
    if first is None:
        raise SpeechSourceError("the data set is empty")
    return list(first)


def _without_decoding(dataset: AnyDataset, audio: str) -> AnyDataset:
    dataset = dataset.with_format(None)
    feature = (dataset.features or {}).get(audio)
    return dataset.cast_column(audio, datasets.Audio(decode=False)) if isinstance(feature, datasets.Audio) else dataset


def _class_label(dataset: AnyDataset, name: str) -> datasets.ClassLabel | None:
    feature = (dataset.features or {}).get(name)
    return feature if isinstance(feature, datasets.ClassLabel) else None


def _numbered_rows(
    rows: AnyDataset, id_column: str | None, takes: Callable[[str], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(rows, datasets.IterableDataset):
        yield from enumerate(rows)
        return
    ids: Iterable[Any] = rows.select_columns([id_column])[id_column] if id_column else (None for _ in range(len(rows)))
    indices = [index for index, id in enumerate(ids) if takes(str(id or f"{index:08d}"))]
    yield from zip(indices, rows.select(indices), strict=True)
