"""One entry point to all sources of speech: `load_speech` finds out what a source is and lists it."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import datasets

from .folders import (
    DatasetRowsBuilder,
    LibriSpeechBuilder,
    LibriTTSBuilder,
    LJSpeechBuilder,
    ManifestBuilder,
    VCTKBuilder,
)
from .librilight import LibrilightBuilder
from .manifests import MANIFEST_SUFFIXES
from .speech_builder import SpeechBuilder
from .text_files import read_lines
from .tree import fingerprint, walk_tree
from .validation import BrokenInputError, BrokenInputReport, SpeechSourceError

BUILDERS: dict[str, type[SpeechBuilder]] = {
    builder.SOURCE: builder
    for builder in (
        LibrilightBuilder,
        LJSpeechBuilder,
        LibriSpeechBuilder,
        LibriTTSBuilder,
        VCTKBuilder,
        ManifestBuilder,
        DatasetRowsBuilder,
    )
}
# Manifests that a folder may hold; `metadata.*` is the convention of the `audiofolder` of `datasets`.
MANIFEST_NAMES = tuple(f"{stem}{suffix}" for stem in ("manifest", "metadata") for suffix in MANIFEST_SUFFIXES)
MAX_FOLDERS_LOOKED_AT = 1000  # a layout shows in its first chapters
Source: TypeAlias = str | os.PathLike[str] | datasets.Dataset | datasets.IterableDataset


def load_speech(
    source: Source,
    *,
    format: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    report: BrokenInputReport | None = None,
    cache_dir: str | None = None,
    refresh: bool = False,
    name: str | None = None,
    split: str | None = None,
    **options: Any,
) -> datasets.Dataset | datasets.IterableDataset:
    """Lists a source of speech as rows with the columns of [`smalle_hf.data.schema`].

    Args:
        source: A folder in the style of Libri-Light, LJSpeech, LibriSpeech, LibriTTS or VCTK; a `.csv`, `.tsv` or
            `.jsonl` manifest; a Libriheavy manifest, with `data_dir` for its tree; a folder that `datasets` saved; the
            name of a data set on the Hub; or a data set in memory.
        format (`str`, *optional*): A key of `BUILDERS`. Defaults to what the source looks like.
        streaming (`bool`, defaults to `False`): Return an iterable data set at once and list while it is read.
        num_proc (`int`, *optional*): Processes that list a map-style data set. Their number changes the order of rows.
        report (`BrokenInputReport`, *optional*): Receives what was skipped, for a streaming data set while it is read.
        cache_dir (`str`, *optional*): Where the listing is kept. Defaults to the cache of `datasets`.
        refresh (`bool`, defaults to `False`): List again although nothing seems to have changed. Changed audio files
            of a folder are noticed, those of a manifest are not.
        name, split (`str`, *optional*): Configuration and split of a data set on the Hub or on disk.
        options: Fields of the builder's configuration: [`SpeechOptions`] for all formats, and [`LibrilightConfig`],
            [`FolderConfig`], [`ManifestConfig`] or [`DatasetRowsConfig`].

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: The rows; [`read_segment`] reads their audio.

    Raises:
        SpeechSourceError: There is nothing at `source`, its format cannot be told, or no row of it is usable.
        ValueError: An option does not exist or has an impossible value.

    Example:
        >>> from smalle_hf.data import load_speech, read_segment
        >>> rows = load_speech("LJSpeech-1.1", max_duration=10.0)
        >>> waveform = read_segment(rows[0])
    """
    report = BrokenInputReport() if report is None else report
    format = format or detect_format(source)
    if format == DatasetRowsBuilder.SOURCE and isinstance(source, (str, os.PathLike)):
        source = _open_dataset(os.fspath(source), name, split, streaming)
    options = _builder_options(source, format, options)
    if not streaming:
        options["content_hash"] = _content_hash(format, options)
    builder = _make_builder(format, options, cache_dir, report)
    if streaming:
        return builder.as_streaming_dataset("train")
    mode = "force_redownload" if refresh else None
    with _progress_on_terminals_only():
        builder.download_and_prepare(num_proc=num_proc, download_mode=mode)
    if builder.info.splits["train"].num_examples == 0:
        raise SpeechSourceError(f"no usable row in {source}: {report.counts or 'the options leave out every row'}")
    return builder.as_dataset("train")


def detect_format(source: Source) -> str:
    """Says which builder reads a source.

    Args:
        source: As for [`load_speech`].

    Returns:
        `str`: A key of `BUILDERS`.

    Raises:
        SpeechSourceError: The folder or file looks like none of the formats.

    Example:
        >>> from smalle_hf.data.sources import detect_format
        >>> detect_format("someone/speech-on-the-hub")
        'dataset'
    """
    if not isinstance(source, (str, os.PathLike)):
        return DatasetRowsBuilder.SOURCE
    path = Path(source)
    if path.is_dir():
        return _folder_format(path)
    if path.name.lower().endswith(MANIFEST_SUFFIXES):
        if not path.is_file():
            raise SpeechSourceError(f"no manifest at {path}")
        return LibrilightBuilder.SOURCE if _is_cut_manifest(path) else ManifestBuilder.SOURCE
    # Hub names have at most one slash; anything else was meant to be a path.
    if path.exists() or path.is_absolute() or len(path.parts) > 2 or path.parts[:1] in ((".",), ("..",)):
        raise SpeechSourceError(
            f"{path} is no folder and no manifest: manifests end in {', '.join(MANIFEST_SUFFIXES)}"
        )
    return DatasetRowsBuilder.SOURCE


def _folder_format(path: Path) -> str:
    saved = ("state.json", "dataset_dict.json", "*.parquet", "data/*.parquet")
    if any(any(path.glob(pattern)) for pattern in saved):
        return DatasetRowsBuilder.SOURCE
    if (path / "txt").is_dir() or any(folder.is_dir() for folder in path.glob("wav*/p[0-9]*")):
        return VCTKBuilder.SOURCE
    if (path / "metadata.csv").is_file() and b"|" in next(read_lines(path / "metadata.csv"), (0, b""))[1]:
        return LJSpeechBuilder.SOURCE
    if any((path / name).is_file() for name in MANIFEST_NAMES):
        return ManifestBuilder.SOURCE
    for _, folder in zip(range(MAX_FOLDERS_LOOKED_AT), walk_tree(path), strict=False):
        names = [] if isinstance(folder, BrokenInputError) else [entry.name for entry in folder.files]
        if any(name.endswith(".trans.txt") for name in names):
            return LibriSpeechBuilder.SOURCE
        if any(name.endswith((".normalized.txt", ".original.txt")) for name in names):
            return LibriTTSBuilder.SOURCE
        if any(name.endswith(".flac") and name.removesuffix(".flac") + ".json" in names for name in names):
            return LibrilightBuilder.SOURCE
    raise SpeechSourceError(f"cannot tell what {path} is: pass format= with one of {', '.join(BUILDERS)}")


def _is_cut_manifest(path: Path) -> bool:
    try:
        _, line = next(read_lines(path), (0, b""))
        first = json.loads(line)
    except ValueError:  # a damaged file, too: its reader says what is wrong
        return False
    return isinstance(first, dict) and "supervisions" in first and "recording" in first


def _builder_options(source: Any, format: str, options: dict[str, Any]) -> dict[str, Any]:
    """Adds to the options where the source is, under the name that the builder knows it by."""
    if format == DatasetRowsBuilder.SOURCE:
        return {**options, "dataset": source}
    path = os.fspath(source)
    if format == ManifestBuilder.SOURCE:
        if os.path.isdir(path):
            inside = [name for name in MANIFEST_NAMES if os.path.isfile(os.path.join(path, name))]
            path = os.path.join(path, *inside[:1])
        return {**options, "manifest": path}
    if format == LibrilightBuilder.SOURCE and not os.path.isdir(path):
        return {"data_dir": os.path.dirname(os.path.abspath(path)), **options, "manifest": path}
    return {**options, "data_dir": path}


def _content_hash(format: str, options: dict[str, Any]) -> str:
    if format == DatasetRowsBuilder.SOURCE:
        return ""  # the configuration takes that of the data set
    manifests = options.get("manifest") or ()
    paths = [manifests] if isinstance(manifests, str) else list(manifests)
    if format != ManifestBuilder.SOURCE:
        paths.append(options["data_dir"])
    return fingerprint([path for path in paths if os.path.exists(path)])


def _make_builder(
    format: str, options: dict[str, Any], cache_dir: str | None, report: BrokenInputReport
) -> SpeechBuilder:
    if format not in BUILDERS:
        raise SpeechSourceError(f"unknown format {format!r}: choose from {', '.join(BUILDERS)}")
    known = BUILDERS[format].BUILDER_CONFIG_CLASS.__dataclass_fields__
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown options {', '.join(unknown)} for {format}: choose from {', '.join(sorted(known))}")
    return BUILDERS[format](cache_dir=cache_dir, report=report, **options)


def _open_dataset(
    source: str, name: str | None, split: str | None, streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    if os.path.isfile(os.path.join(source, "state.json")):
        return datasets.load_from_disk(source)
    if os.path.isfile(os.path.join(source, "dataset_dict.json")):
        saved = datasets.load_from_disk(source)
        return saved[_choose_split(source, list(saved), split)]
    split = _choose_split(source, datasets.get_dataset_split_names(source, name), split)
    return datasets.load_dataset(source, name, split=split, streaming=streaming)


def _choose_split(source: str, splits: list[str], split: str | None) -> str:
    chosen = splits[0] if split is None and len(splits) == 1 else split
    if chosen not in splits:
        raise SpeechSourceError(f"choose a split of {source}: split= one of {', '.join(splits)}")
    return chosen


@contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
