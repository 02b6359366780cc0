"""Folder layouts of public corpora: which text belongs to which audio file."""

import os
from collections.abc import Iterable, Iterator
from typing import Literal

from .audio_segments import AUDIO_SUFFIXES
from .text_files import read_text, read_text_lines
from .tree import Folder, path_inside, walk_tree
from .utterances import Utterance
from .validation import BrokenInputError, BrokenReason

TextColumn = Literal["normalized", "original"]
Claims = Iterator[Utterance | BrokenInputError]


def read_ljspeech(root: str, text_column: TextColumn = "normalized") -> Claims:
    """LJSpeech style: `metadata.csv` with `id|text` or `id|text|normalized text`, and audio anywhere below the root.

    In a folder per speaker the speaker is the folder's name; ids may be file stems or paths.

    Example:
        >>> from smalle_hf.data.corpora import read_ljspeech
        >>> utterances = list(read_ljspeech("LJSpeech-1.1"))
    """
    audio = _AudioIndex(root)
    yield from audio.errors
    metadata = os.path.join(root, "metadata.csv")
    for number, line in read_text_lines(metadata):
        fields = line.split("|")
        if len(fields) < 2:
            yield BrokenInputError(BrokenReason.BAD_METADATA, f"{metadata}:{number}", "no | between id and text")
            continue
        yield audio.utterance(fields[0].strip(), fields[1] if text_column == "original" else fields[-1])
    yield from audio.unused()


def read_vctk(root: str, text_column: TextColumn = "normalized") -> Claims:
    """VCTK style: `wav48*/<speaker>/<id>[_mic1].flac` with `txt/<speaker>/<id>.txt`, or with a `metadata.csv`.

    The second microphone (`_mic2`) records the same speech and is left out. VCTK has one text per utterance.

    Example:
        >>> from smalle_hf.data.corpora import read_vctk
        >>> utterances = list(read_vctk("VCTK-Corpus-0.92"))
    """
    if not os.path.isdir(os.path.join(root, "txt")):
        yield from read_ljspeech(root, text_column)
        return
    audio = _AudioIndex(root)
    yield from audio.errors
    for folder in walk_tree(root, "txt"):
        if isinstance(folder, BrokenInputError):
            continue  # the index has reported it
        for entry in folder.files:
            stem, suffix = os.path.splitext(entry.name)
            if suffix == ".txt":
                yield audio.utterance(stem, read_text(entry.path))
    yield from audio.unused()


def read_librispeech(root: str, text_column: TextColumn = "normalized") -> Claims:
    """LibriSpeech style: `<split>/<speaker>/<chapter>/<id>.flac` with one `.trans.txt` of `id text` lines per chapter.

    Example:
        >>> from smalle_hf.data.corpora import read_librispeech
        >>> utterances = list(read_librispeech("LibriSpeech"))
    """
    for folder in walk_tree(root):
        if isinstance(folder, BrokenInputError):
            yield folder
            continue
        texts = (
            (*line.partition(" ")[::2], f"{entry.path}:{number}")
            for entry in folder.files
            if entry.name.endswith(".trans.txt")
            for number, line in read_text_lines(entry.path)
        )
        yield from _chapter_utterances(root, folder, texts)


def read_libritts(root: str, text_column: TextColumn = "normalized") -> Claims:
    """LibriTTS style: `<split>/<speaker>/<chapter>/<id>.wav` with `<id>.normalized.txt` and `<id>.original.txt`.

    Example:
        >>> from smalle_hf.data.corpora import read_libritts
        >>> utterances = list(read_libritts("LibriTTS"))
    """
    suffix = f".{text_column}.txt"
    for folder in walk_tree(root):
        if isinstance(folder, BrokenInputError):
            yield folder
            continue
        texts = (
            (entry.name.removesuffix(suffix), read_text(entry.path), entry.path)
            for entry in folder.files
            if entry.name.endswith(suffix)
        )
        yield from _chapter_utterances(root, folder, texts)


class _AudioIndex:
    """All audio files below a root by stem, and which of them have no text yet."""

    def __init__(self, root: str):
        self.root = root
        self.errors: list[BrokenInputError] = []
        self.by_stem: dict[str, list[str]] = {}
        self.used: set[str] = set()
        for folder in walk_tree(root):
            if isinstance(folder, BrokenInputError):
                self.errors.append(folder)
                continue
            for stem, path in _audio_files(folder).items():
                if not stem.endswith("_mic2"):
                    self.by_stem.setdefault(stem.removesuffix("_mic1"), []).append(path)
        folders = {os.path.dirname(path) for paths in self.by_stem.values() for path in paths}
        self.has_speaker_folders = len(folders) > 1

    def utterance(self, id: str, text: str) -> Utterance | BrokenInputError:
        """Finds the audio of an id, which may be a stem or a path relative to the root."""
        stem, suffix = os.path.splitext(id)
        stem = stem if suffix.lower() in AUDIO_SUFFIXES else id
        try:
            named = path_inside(self.root, stem)
        except BrokenInputError as error:
            return error
        paths = self.by_stem.get(os.path.basename(stem), [])
        paths = [path for path in paths if os.path.splitext(path)[0] == named] or paths
        if not paths:
            return BrokenInputError(BrokenReason.TEXT_WITHOUT_AUDIO, named, "no audio file of this name", id)
        self.used.update(paths)
        if len(paths) > 1:
            return BrokenInputError(BrokenReason.DUPLICATE_ID, paths[1], f"the same name as {paths[0]}", id)
        speaker = os.path.basename(os.path.dirname(paths[0])) if self.has_speaker_folders else None
        return Utterance(id=id, audio=paths[0], text=text, speaker=speaker)

    def unused(self) -> Iterator[BrokenInputError]:
        for paths in self.by_stem.values():
            yield from _without_text(path for path in paths if path not in self.used)


def _audio_files(folder: Folder) -> dict[str, str]:
    """Absolute paths of the audio files of a folder by stem."""
    stems = ((os.path.splitext(entry.name), entry) for entry in folder.files)
    return {stem: os.path.abspath(entry.path) for (stem, suffix), entry in stems if suffix.lower() in AUDIO_SUFFIXES}


def _chapter_utterances(root: str, folder: Folder, texts: Iterable[tuple[str, str, str]]) -> Claims:
    """Joins the (id, text, place of the text) of one chapter with the audio files beside them."""
    audio = _audio_files(folder)
    # The root may also be one split or one speaker: the names above it then take its part.
    parts = os.path.join(os.path.abspath(root), folder.path).rstrip(os.sep).split(os.sep)
    subset, speaker = parts[-3:-1] if len(parts) > 2 else (None, None)
    used = set()
    for id, text, place in texts:
        if id in audio:
            used.add(id)
            yield Utterance(id=id, audio=audio[id], text=text, speaker=speaker, subset=subset)
        else:
            yield BrokenInputError(BrokenReason.TEXT_WITHOUT_AUDIO, place, f"no audio file {id}", id)
    yield from _without_text(path for id, path in audio.items() if id not in used)


def _without_text(paths: Iterable[str]) -> Iterator[BrokenInputError]:
    for path in paths:
        yield BrokenInputError(BrokenReason.AUDIO_WITHOUT_TEXT, path, "no transcript for it")
