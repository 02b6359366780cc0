"""What is to be spoken for an evaluation: lists of sentences as .txt, .tsv or .jsonl files."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalle_hf.metrics import scoring_text


@dataclass(frozen=True)
class Sentence:
    """One sentence to speak.

    Attributes:
        id (`str`): Stem of its audio file.
        text (`str`): What to say.
        reference (`Path`, *optional*): Original recording of the same text.
        prompt (`Path`, *optional*): Recording of the voice to speak in.
        prompt_text (`str`): What is said in the prompt.
        voice (`str`, *optional*): Name of one of the checkpoint's voices to speak in, where there is no prompt.
    """

    id: str
    text: str
    reference: Path | None = None
    prompt: Path | None = None
    prompt_text: str = ""
    voice: str | None = None

    @property
    def speaker(self) -> Path | None:
        """Recording of the speaker that the result should sound like."""
        return self.prompt or self.reference


def read_sentences(path: Path, language: str = "en", limit: int | None = None) -> tuple[list[Sentence], int]:
    """Reads a list of sentences.

    `.txt`: one sentence per line. `.tsv`: columns with a header, or without one `text`, or `id` and `text`.
    `.jsonl`: one object per line. Columns and keys are `text`; optionally `id`, `reference` (or `path`: a recording
    of the same text), `prompt` and `prompt_text` (a recording of the voice to speak in, and what is said in it), or
    `voice` (a voice of the checkpoint by its name). Paths are relative to the list.

    Args:
        path (`Path`): The list.
        language (`str`, defaults to `"en"`): Language of the texts.
        limit (`int`, *optional*): Take only the first so many sentences.

    Returns:
        The sentences, and the number of entries left out because their text is missing or has no words.

    Raises:
        FileNotFoundError: A recording named in the list is missing.
        ValueError: The file is not of these formats, holds no sentence, or an id occurs twice.
    """
    sentences: list[Sentence] = []
    left_out = 0
    for number, row in enumerate(_rows(path), start=1):
        if limit is not None and len(sentences) == limit:
            break
        if not scoring_text(row.get("text") or "", language):
            left_out += 1
            continue
        sentences.append(_sentence(row, number, path.parent))
    if not sentences:
        raise ValueError(f"{path} holds no sentence: give a `text` with words to at least one entry.")
    id_, count = Counter(sentence.id for sentence in sentences).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{path}: the id {id_!r} occurs {count} times: give every sentence an `id` of its own.")
    for sentence in sentences:
        for recording in (sentence.reference, sentence.prompt):
            if recording is not None and not recording.is_file():
                raise FileNotFoundError(f"{path}: the recording {recording} of {sentence.id!r} does not exist.")
    return sentences, left_out


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: convert it first.") from error
    if path.suffix == ".txt":
        yield from ({"text": line.strip()} for line in lines if line.strip())
    elif path.suffix == ".tsv":
        cells = [row for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
        width = max(map(len, cells), default=0)
        has_header = bool(cells) and "text" in cells[0]
        if not has_header and width > 2:
            raise ValueError(f"{path} has {width} columns and no header: its first line must name them, one `text`.")
        names = cells.pop(0) if has_header else ["id", "text"][-width:]
        yield from (dict(zip(names, row, strict=False)) for row in cells)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: {error}.") from error
            if row is not None and not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected an object with a `text`.")
            if row:
                yield row
    else:
        raise ValueError(f"Cannot read {path}: a list of sentences ends in .txt, .tsv or .jsonl.")


def _sentence(row: dict[str, Any], number: int, folder: Path) -> Sentence:
    reference = row.get("reference") or row.get("path")
    prompt = row.get("prompt")
    id_ = row.get("id") or (Path(reference).stem if reference else f"{number:04d}")
    return Sentence(
        # The id names files: no folders, no characters that a file system or a link would not take.
        id=re.sub(r"[^\w.-]+", "_", str(id_)).strip("."),
        text=row["text"],
        reference=folder / reference if reference else None,
        prompt=folder / prompt if prompt else None,
        prompt_text=row.get("prompt_text") or "",
        voice=row.get("voice") or None,
    )


__all__ = ["Sentence", "read_sentences"]
