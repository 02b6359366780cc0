"""Libri-Light as a `datasets` builder: chapters of a tree, cut by Libriheavy manifests or by voice activity."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .chapters import VAD_FRAME, Chapter, ChapterTree, subset_and_speaker
from .libriheavy import TEXT_COLUMNS, Cut, read_cuts
from .speech_builder import SpeechBuilder, SpeechConfig, Takes
from .utterances import Utterance
from .validation import BrokenInputError, BrokenReason, SpeechSourceError


@dataclass
class LibrilightConfig(SpeechConfig):
    """Configuration of [`LibrilightBuilder`]: that of [`SpeechConfig`], and

    Args:
        manifest (`str` or sequence of `str`, *optional*): Libriheavy cut manifests, `.jsonl` or `.jsonl.gz`. Without
            one the rows are voice-activity segments that have no text.
        subset (`str` or sequence of `str`, *optional*): Keep only these folders of the tree, for example `"medium"`.
        min_snr (`float`, *optional*): Keep only chapters with at least this signal-to-noise ratio, in dB.
        text_column (`str`, defaults to `"book"`): Which text of a cut, see [`smalle_hf.data.libriheavy.read_cuts`].
        sampling_rate (`int`, defaults to 16000): Refuse chapters of another rate, in Hz.
        licence (`str`, defaults to `"public-domain"`): That of LibriVox recordings.
    """

    manifest: str | tuple[str, ...] | None = None
    subset: str | tuple[str, ...] | None = None
    min_snr: float | None = None
    text_column: str = "book"
    sampling_rate: int | None = 16_000
    licence: str | None = "public-domain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_column not in TEXT_COLUMNS:
            raise ValueError(f"unknown text_column {self.text_column!r}: choose one of {', '.join(TEXT_COLUMNS)}")
        if not self.manifests:
            self.require_text = False

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifests as a tuple."""
        return _as_tuple(self.manifest)

    @property
    def subsets(self) -> tuple[str, ...]:
        """The subsets as a tuple; empty means all."""
        return _as_tuple(self.subset)


class LibrilightBuilder(SpeechBuilder):
    """Libri-Light trees `<subset>/<speaker>/<book>/<file>.flac` with the same-stem `.json`.

    Example:
        >>> from smalle_hf.data import LibrilightBuilder
        >>> builder = LibrilightBuilder(data_dir="librilight", manifest="libriheavy_cuts_small.jsonl.gz")
        >>> rows = list(builder.as_streaming_dataset("train"))
    """

    BUILDER_CONFIG_CLASS = LibrilightConfig
    SOURCE = "librilight"

    config: LibrilightConfig

    def check_source(self) -> None:
        """Raises `SpeechSourceError` for a missing tree or manifest; warns when there is no manifest."""
        root = self.config.data_dir
        if root is None or not os.path.isdir(root):
            raise SpeechSourceError(f"no Libri-Light tree at {root}: pass data_dir, the folder that holds the subsets")
        for subset in self.config.subsets:
            if not os.path.isdir(os.path.join(root, subset)):
                raise SpeechSourceError(f"no subset {subset!r} in {root}: choose from {sorted(os.listdir(root))}")
        for manifest in self.config.manifests:
            if not os.path.isfile(manifest):
                raise SpeechSourceError(f"no manifest at {manifest}: pass a Libriheavy .jsonl or .jsonl.gz file")
        if not self.config.manifests:
            warnings.warn(
                "no Libriheavy manifest: the rows are voice-activity segments without text; "
                "pass manifest= for transcribed utterances",
                stacklevel=2,
            )

    def utterances(self, takes: Takes) -> Iterator[Utterance | BrokenInputError]:
        """Yields the cuts of the manifests, or the voice-activity segments of the tree."""
        if self.config.manifests:
            yield from self._cuts(takes)
        else:
            yield from self._segments(takes)

    def _chapters(self) -> ChapterTree:
        return ChapterTree(self.config.data_dir or "", self.config.subsets, self.config.min_snr)

    def _cuts(self, takes: Takes) -> Iterator[Utterance | BrokenInputError]:
        chapters = self._chapters()
        used: set[str] = set()
        for manifest in self.config.manifests:
            for cut in read_cuts(manifest, self.config.text_column):
                if isinstance(cut, BrokenInputError):
                    yield cut
                    continue
                try:
                    path = chapters.locate(cut.audio, cut.recording)
                    used.add(path)
                    if chapters.is_wanted(path):
                        yield _cut_utterance(cut, path, chapters)
                except BrokenInputError as error:
                    yield error.with_id(cut.id)
        # Every process reads all cuts, so the one that is given this group knows all chapters in use.
        if takes(""):
            yield from self._chapters_without_cuts(chapters, used)

    def _chapters_without_cuts(self, chapters: ChapterTree, used: set[str]) -> Iterator[BrokenInputError]:
        for path in chapters.paths():
            if isinstance(path, BrokenInputError):
                yield path
            elif path not in used:
                yield BrokenInputError(BrokenReason.AUDIO_WITHOUT_TEXT, path, "no cut of it in the manifest")

    def _segments(self, takes: Takes) -> Iterator[Utterance | BrokenInputError]:
        chapters = self._chapters()
        for path in chapters.paths():
            if isinstance(path, BrokenInputError):
                yield path
                continue
            stem = chapters.stem(path)
            if not takes(stem):
                continue
            try:
                if chapters.is_wanted(path):
                    yield from _segment_utterances(path, stem, chapters.required_metadata(path))
            except BrokenInputError as error:
                yield error.with_id(stem)


def _cut_utterance(cut: Cut, path: str, chapters: ChapterTree) -> Utterance:
    subset, speaker = subset_and_speaker(path)
    metadata = chapters.metadata(path)
    return Utterance(
        id=cut.id,
        audio=path,
        text=cut.text,
        speaker=cut.speaker or speaker,
        language=cut.language,
        subset=subset,
        snr=metadata.snr if metadata else None,
        start=cut.start,
        duration=cut.duration,
        sampling_rate=cut.sampling_rate,
        group=cut.group,
    )


def _segment_utterances(path: str, stem: str, chapter: Chapter) -> Iterator[Utterance]:
    subset, speaker = subset_and_speaker(path)
    for index, (onset, offset) in enumerate(chapter.voice_activity):
        yield Utterance(
            id=f"{stem}_{index}",
            audio=path,
            speaker=chapter.speaker or speaker,
            language=chapter.language,
            subset=subset,
            snr=chapter.snr,
            start=onset,
            duration=offset - onset,
            # The last frame of the voice activity may reach beyond the end of the chapter.
            end_tolerance=VAD_FRAME,
            group=stem,
        )


def _as_tuple(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
