"""Builders for folders of public corpora, for manifests, and for data sets that `datasets` already reads."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import datasets

from . import corpora
from .dataset_rows import read_dataset
from .manifests import read_manifest
from .speech_builder import SpeechBuilder, SpeechConfig, Takes
from .utterances import Utterance
from .validation import BrokenInputError, SpeechSourceError


@dataclass
class FolderConfig(SpeechConfig):
    """Configuration of the folder builders: that of [`SpeechConfig`], and

    Args:
        text_column (`str`, defaults to `"normalized"`): `"normalized"` or `"original"`, where a corpus has both.
    """

    text_column: corpora.TextColumn = "normalized"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = get_args(corpora.TextColumn)
        if self.text_column not in choices:
            raise ValueError(f"unknown text_column {self.text_column!r}: choose one of {', '.join(choices)}")


class FolderBuilder(SpeechBuilder):
    """Base of the builders of folder layouts; see the functions of [`smalle_hf.data.corpora`] for the layouts."""

    BUILDER_CONFIG_CLASS = FolderConfig

    config: FolderConfig
    read: Callable[[str, corpora.TextColumn], corpora.Claims]

    def check_source(self) -> None:
        """Raises `SpeechSourceError` when the folder is missing."""
        if self.config.data_dir is None or not os.path.isdir(self.config.data_dir):
            raise SpeechSourceError(f"no folder at {self.config.data_dir}: pass data_dir, the root of the corpus")

    def utterances(self, takes: Takes) -> Iterable[Utterance | BrokenInputError]:
        """Yields the utterances of the folder."""
        return type(self).read(os.path.abspath(self.config.data_dir or ""), self.config.text_column)


@dataclass
class LJSpeechConfig(FolderConfig):
    """Configuration of [`LJSpeechBuilder`]: that of [`FolderConfig`]; `speaker` defaults to the root folder's name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speaker is None and self.data_dir is not None:
            self.speaker = os.path.basename(os.path.abspath(self.data_dir))


class LJSpeechBuilder(FolderBuilder):
    """LJSpeech style folders, see [`smalle_hf.data.corpora.read_ljspeech`].

    Example:
        >>> from smalle_hf.data import LJSpeechBuilder
        >>> rows = LJSpeechBuilder(data_dir="LJSpeech-1.1").as_streaming_dataset("train")
        >>> text = next(iter(rows))["text"]
    """

    BUILDER_CONFIG_CLASS = LJSpeechConfig
    SOURCE = "ljspeech"
    read = staticmethod(corpora.read_ljspeech)


class LibriSpeechBuilder(FolderBuilder):
    """LibriSpeech style folders, see [`smalle_hf.data.corpora.read_librispeech`].

    Example:
        >>> from smalle_hf.data import LibriSpeechBuilder
        >>> rows = LibriSpeechBuilder(data_dir="LibriSpeech").as_streaming_dataset("train")
        >>> text = next(iter(rows))["text"]
    """

    SOURCE = "librispeech"
    read = staticmethod(corpora.read_librispeech)


class LibriTTSBuilder(FolderBuilder):
    """LibriTTS style folders, see [`smalle_hf.data.corpora.read_libritts`].

    Example:
        >>> from smalle_hf.data import LibriTTSBuilder
        >>> rows = LibriTTSBuilder(data_dir="LibriTTS").as_streaming_dataset("train")
        >>> text = next(iter(rows))["text"]
    """

    SOURCE = "libritts"
    read = staticmethod(corpora.read_libritts)


class VCTKBuilder(FolderBuilder):
    """VCTK style folders, see [`smalle_hf.data.corpora.read_vctk`].

    Example:
        >>> from smalle_hf.data import VCTKBuilder
        >>> rows = VCTKBuilder(data_dir="VCTK-Corpus-0.92").as_streaming_dataset("train")
        >>> text = next(iter(rows))["text"]
    """

    SOURCE = "vctk"
    read = staticmethod(corpora.read_vctk)


@dataclass
class ManifestConfig(SpeechConfig):
    """Configuration of [`ManifestBuilder`]: that of [`SpeechConfig`], `data_dir` being the folder that all audio lies
    in and by default that of the manifest, and

    Args:
        manifest (`str`): A `.csv`, `.tsv` or `.jsonl` file, or one of these with `.gz`.
        columns (mapping, *optional*): Columns by role, see [`smalle_hf.data.columns.find_columns`].
    """

    manifest: str = ""
    columns: Mapping[str, str] | None = None


class ManifestBuilder(SpeechBuilder):
    """CSV, TSV and JSONL manifests, see [`smalle_hf.data.manifests.read_manifest`].

    Example:
        >>> from smalle_hf.data import ManifestBuilder
        >>> builder = ManifestBuilder(manifest="corpus/manifest.tsv", columns={"text": "sentence"})
        >>> text = next(iter(builder.as_streaming_dataset("train")))["text"]
    """

    BUILDER_CONFIG_CLASS = ManifestConfig
    SOURCE = "manifest"

    config: ManifestConfig

    def check_source(self) -> None:
        """Raises `SpeechSourceError` when the manifest is missing."""
        if not os.path.isfile(self.config.manifest):
            raise SpeechSourceError(f"no manifest at {self.config.manifest!r}: pass manifest, the path of a file")

    def utterances(self, takes: Takes) -> Iterable[Utterance | BrokenInputError]:
        """Yields the utterances of the manifest."""
        config = self.config
        return read_manifest(config.manifest, config.data_dir, config.columns, config.require_text)


@dataclass
class DatasetRowsConfig(SpeechConfig):
    """Configuration of [`DatasetRowsBuilder`]: that of [`SpeechConfig`], and

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): Data set with an audio and a text column.
        columns (mapping, *optional*): Columns by role, see [`smalle_hf.data.columns.find_columns`].
    """

    dataset: datasets.Dataset | datasets.IterableDataset | None = None
    columns: Mapping[str, str] | None = None

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        kept = {key: value for key, value in config_kwargs.items() if key != "dataset"}
        # A streamed data set has no fingerprint and is never prepared, so its id does not matter.
        kept["content_hash"] = getattr(self.dataset, "_fingerprint", "stream")
        return super().create_config_id(kept, custom_features)


class DatasetRowsBuilder(SpeechBuilder):
    """Any `datasets` data set with an audio column, see [`smalle_hf.data.dataset_rows.read_dataset`].

    Example:
        >>> from smalle_hf.data import DatasetRowsBuilder
        >>> builder = DatasetRowsBuilder(dataset=my_dataset, columns={"text": "sentence"})
        >>> text = next(iter(builder.as_streaming_dataset("train")))["text"]
    """

    BUILDER_CONFIG_CLASS = DatasetRowsConfig
    SOURCE = "dataset"

    config: DatasetRowsConfig

    def check_source(self) -> None:
        """Raises `SpeechSourceError` when there is no single data set."""
        if not isinstance(self.config.dataset, (datasets.Dataset, datasets.IterableDataset)):
            found = type(self.config.dataset).__name__
            raise SpeechSourceError(f"dataset is a {found}: pass one datasets.Dataset or IterableDataset, one split")

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Writes the rows as Arrow or Parquet; embedded audio is copied. A streamed data set is refused."""
        if not isinstance(self.config.dataset, datasets.Dataset):
            raise SpeechSourceError("a streamed data set gives a streamed one: use as_streaming_dataset")
        super().download_and_prepare(*args, **kwargs)

    def utterances(self, takes: Takes) -> Iterable[Utterance | BrokenInputError]:
        """Yields the rows of the data set."""
        config = self.config
        return read_dataset(config.dataset, takes, config.data_dir, config.columns, config.require_text)
