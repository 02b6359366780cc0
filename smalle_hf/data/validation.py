"""Broken input: why a file or a row is refused, and the report that counts the refusals of a run.

Cheap checks (header, bounds, text, duplicates) happen while a source is listed, sample checks (silence, non-finite
values, truncated streams) when [`read_segment`] reads a row. Both raise [`BrokenInputError`]; the run skips the row
and adds the error to a [`BrokenInputReport`].
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path

from ..file_replacement import replace_file

MAX_IDS_PER_FILE = 5
SUMMARY_EXAMPLES = 3  # files shown per reason in the one-screen summary


class BrokenReason(str, Enum):
    """Why an input was skipped."""

    AUDIO_WITHOUT_TEXT = "audio_without_text"
    BAD_METADATA = "bad_metadata"
    CUT_OUTSIDE_FILE = "cut_outside_file"
    DUPLICATE_ID = "duplicate_id"
    EMPTY_TEXT = "empty_text"
    NOT_FINITE = "not_finite"
    NOT_UTF8 = "not_utf8"
    PATH_OUTSIDE_ROOT = "path_outside_root"
    SILENCE = "silence"
    SYMLINK_LOOP = "symlink_loop"
    TEXT_WITHOUT_AUDIO = "text_without_audio"
    TRUNCATED_AUDIO = "truncated_audio"
    UNREADABLE_AUDIO = "unreadable_audio"
    WRONG_SAMPLING_RATE = "wrong_sampling_rate"


@dataclass(frozen=True)
class BrokenInput:
    """One refused file or row.

    Args:
        reason (`BrokenReason`): Why.
        file (`str`): The audio file, or the metadata file with the line number behind a colon.
        detail (`str`, defaults to `""`): What was found, in one line.
        id (`str`, *optional*): Row id, where the row had one.
    """

    reason: BrokenReason
    file: str
    detail: str = ""
    id: str | None = None


class BrokenInputError(ValueError):
    """An input that cannot be used; `error.broken` says which and why. It survives pickling between processes.

    Example:
        >>> from smalle_hf.data import BrokenInputError
        >>> str(BrokenInputError("silence", "a.flac", "peak 0.0"))
        'a.flac: silence (peak 0.0)'
    """

    def __init__(
        self, reason: BrokenReason | str, file: str | os.PathLike[str], detail: str = "", id: str | None = None
    ):
        super().__init__(reason, file, detail, id)
        self.broken = BrokenInput(
            BrokenReason(reason), _printable(os.fspath(file)), _printable(detail), id if id is None else _printable(id)
        )

    def with_id(self, id: str) -> "BrokenInputError":
        """Returns the same error for the row `id`."""
        return BrokenInputError(self.broken.reason, self.broken.file, self.broken.detail, id)

    def __str__(self) -> str:
        detail = f" ({self.broken.detail})" if self.broken.detail else ""
        return f"{self.broken.file}: {self.broken.reason.value}{detail}"


class SpeechSourceError(ValueError):
    """A whole source cannot be read: wrong path, unknown format, missing columns, damaged manifest."""


class TooMuchBrokenInputError(RuntimeError):
    """More of the input is broken than the run allows."""


@dataclass
class BrokenFile:
    """What a report keeps of a file: one entry per reason, however many rows of the file are lost to it.

    Args:
        reason (`BrokenReason`): Why.
        file (`str`): The file.
        detail (`str`): Detail of the first row.
        num_rows (`int`): Rows skipped.
        ids (`list[str]`): The first ids, at most `MAX_IDS_PER_FILE`.
    """

    reason: BrokenReason
    file: str
    detail: str = ""
    num_rows: int = 0
    ids: list[str] = field(default_factory=list)

    def merge(self, other: "BrokenFile") -> None:
        """Adds the rows of an entry for the same file and reason."""
        self.num_rows += other.num_rows
        self.ids = (self.ids + other.ids)[:MAX_IDS_PER_FILE]


class BrokenInputReport:
    """Counts what a run has seen and collects what it skipped, with file and reason.

    Its memory grows with the number of broken files, not of broken rows: a missing chapter is one entry. A report may
    hold named sections, for example one per stage or per worker; all totals include them.

    Example:
        >>> from smalle_hf.data import BrokenInputError, BrokenInputReport
        >>> report = BrokenInputReport(num_rows=10)
        >>> report.add(BrokenInputError("silence", "a.flac")); report.broken_fraction
        0.1
    """

    def __init__(self, num_rows: int = 0):
        self._num_rows = num_rows
        self._files: dict[tuple[BrokenReason, str], BrokenFile] = {}
        self._sections: dict[str, BrokenInputReport] = {}

    def section(self, name: str) -> "BrokenInputReport":
        """Returns an empty section. One of the same name is dropped, so that a pass that is repeated counts once."""
        self._sections[name] = BrokenInputReport()
        return self._sections[name]

    def count_row(self) -> None:
        """Counts one row that was looked at, good or broken."""
        self._num_rows += 1

    def add(self, error: BrokenInputError) -> None:
        """Adds a skipped input. The row itself is counted by `count_row`, once, where it is first looked at."""
        broken = error.broken
        ids = [] if broken.id is None else [broken.id]
        self._merge(BrokenFile(broken.reason, broken.file, broken.detail, 1, ids))

    def update(self, other: "BrokenInputReport") -> None:
        """Adds all that another report holds, for example that of another process."""
        self._num_rows += other.num_rows
        for entry in other.files():
            self._merge(entry)

    def files(self) -> Iterator[BrokenFile]:
        """Yields an entry per broken file and reason, those of the sections included."""
        yield from self._files.values()
        for section in self._sections.values():
            yield from section.files()

    @property
    def num_rows(self) -> int:
        """Rows looked at."""
        return self._num_rows + sum(section.num_rows for section in self._sections.values())

    @property
    def num_broken(self) -> int:
        """Rows, or files without rows, that were skipped."""
        return sum(entry.num_rows for entry in self.files())

    @property
    def broken_fraction(self) -> float:
        """Skipped inputs over rows looked at, 0 to 1; 0 for an empty report."""
        return self.num_broken / max(self.num_rows, self.num_broken, 1)

    @property
    def counts(self) -> dict[str, int]:
        """Number of skipped inputs by reason, the most frequent first."""
        counts: Counter[str] = Counter()
        for entry in self.files():
            counts[entry.reason.value] += entry.num_rows
        return dict(counts.most_common())

    def check(self, max_broken_fraction: float) -> None:
        """Raises `TooMuchBrokenInputError` when more than `max_broken_fraction` (0 to 1) of the rows are broken."""
        if self.broken_fraction > max_broken_fraction:
            raise TooMuchBrokenInputError(
                f"{self.num_broken} of {self.num_rows} inputs are broken ({self.broken_fraction:.1%}), allowed are "
                f"{max_broken_fraction:.1%}: {self.counts}; repair them or raise max_broken_fraction"
            )

    def summary(self) -> str:
        """Returns the report on one screen: totals, and for every reason its count and the first files."""
        lines = [f"{self.num_rows} rows, {self.num_broken} broken inputs skipped ({self.broken_fraction:.2%})"]
        examples: dict[str, list[str]] = {reason: [] for reason in self.counts}
        for entry in self.files():
            shown = examples[entry.reason.value]
            if len(shown) < SUMMARY_EXAMPLES:
                shown.append(f"    {entry.file}" + (f": {entry.detail}" if entry.detail else ""))
        for reason, count in self.counts.items():
            lines += [f"  {reason}: {count}", *examples[reason]]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Returns the report as a JSON object: totals, counts by reason, and `files` with an entry per broken file."""
        content = {
            "num_rows": self.num_rows,
            "num_broken": self.num_broken,
            "broken_fraction": self.broken_fraction,
            "counts": self.counts,
            "files": [asdict(entry) for entry in self.files()],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, content: str) -> "BrokenInputReport":
        """The inverse of `to_json`, sections merged."""
        values = json.loads(content)
        report = cls(values["num_rows"])
        for entry in values["files"]:
            report._merge(BrokenFile(**{**entry, "reason": BrokenReason(entry["reason"])}))
        return report

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON, to a temporary name that is then renamed."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "BrokenInputReport":
        """Reads a report that `write` has written."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def _merge(self, entry: BrokenFile) -> None:
        key = (entry.reason, entry.file)
        if key in self._files:
            self._files[key].merge(entry)
        else:
            self._files[key] = replace(entry)


def _printable(name: str) -> str:
    # A name that is not UTF-8 arrives with surrogate escapes, which neither JSON nor a terminal can print.
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
