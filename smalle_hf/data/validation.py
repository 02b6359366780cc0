"""Broken input: why a file or a row is refused, and the report that counts the refusals of a run.

Cheap checks (header, bounds, text, duplicates) happen while a source is listed, sample checks (silence, non-finite
values, truncated streams) when [`read_segment`] reads a row. Both raise [`BrokenInputError`]; the run skips the row
and adds the error to a [`BrokenInputReport`].
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

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

    def __str__(self) -> str:
        detail = f" ({self.broken.detail})" if self.broken.detail else ""
        return f"{self.broken.file}: {self.broken.reason.value}{detail}"


class TooMuchBrokenInputError(RuntimeError):
    """More of the input is broken than the run allows."""


class BrokenInputReport:
    """Counts what a run has seen and collects what it skipped, with file and reason.

    A report may hold named sections, for example one per stage or per worker; all totals include them.

    Example:
        >>> from smalle_hf.data import BrokenInputError, BrokenInputReport
        >>> report = BrokenInputReport(num_rows=10)
        >>> report.add(BrokenInputError("silence", "a.flac")); report.broken_fraction
        0.1
    """

    def __init__(self, num_rows: int = 0, broken: list[BrokenInput] | None = None):
        self.own_rows = num_rows
        self.own_broken = list(broken or [])
        self.sections: dict[str, BrokenInputReport] = {}

    def section(self, name: str) -> "BrokenInputReport":
        """Returns an empty section. One of the same name is dropped, so that a pass that is repeated counts once."""
        self.sections[name] = BrokenInputReport()
        return self.sections[name]

    def count_row(self) -> None:
        """Counts one row that was looked at, good or broken."""
        self.own_rows += 1

    def add(self, error: BrokenInputError | BrokenInput) -> None:
        """Adds a skipped input. The row itself is counted by `count_row`, once, where it is first looked at."""
        self.own_broken.append(error.broken if isinstance(error, BrokenInputError) else error)

    def update(self, other: "BrokenInputReport") -> None:
        """Adds all that another report holds, for example that of another process."""
        self.own_rows += other.num_rows
        self.own_broken.extend(other.broken())

    def broken(self) -> Iterator[BrokenInput]:
        """Yields the skipped inputs, those of the sections included."""
        yield from self.own_broken
        for section in self.sections.values():
            yield from section.broken()

    @property
    def num_rows(self) -> int:
        """Rows looked at."""
        return self.own_rows + sum(section.num_rows for section in self.sections.values())

    @property
    def num_broken(self) -> int:
        """Inputs skipped."""
        return len(self.own_broken) + sum(section.num_broken for section in self.sections.values())

    @property
    def broken_fraction(self) -> float:
        """Skipped inputs over rows looked at, 0 to 1; 0 for an empty report."""
        return self.num_broken / max(self.num_rows, self.num_broken, 1)

    @property
    def counts(self) -> dict[str, int]:
        """Number of skipped inputs by reason, the most frequent first."""
        return dict(Counter(broken.reason.value for broken in self.broken()).most_common())

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
        for broken in self.broken():
            shown = examples[broken.reason.value]
            if len(shown) < SUMMARY_EXAMPLES:
                shown.append(f"    {broken.file}" + (f": {broken.detail}" if broken.detail else ""))
        for reason, count in self.counts.items():
            lines += [f"  {reason}: {count}", *examples[reason]]
        return "\n".join(lines)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON, to a temporary name that is then renamed."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "num_rows": self.num_rows,
            "num_broken": self.num_broken,
            "broken_fraction": self.broken_fraction,
            "counts": self.counts,
            "broken": [asdict(broken) for broken in self.broken()],
        }
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(target)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "BrokenInputReport":
        """Reads a report that `write` has written."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        broken = [BrokenInput(**{**entry, "reason": BrokenReason(entry["reason"])}) for entry in content["broken"]]
        return cls(content["num_rows"], broken)


def _printable(name: str) -> str:
    # A name that is not UTF-8 arrives with surrogate escapes, which neither JSON nor a terminal can print.
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
