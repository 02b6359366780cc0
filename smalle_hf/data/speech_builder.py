"""The `datasets` builder that all speech sources share: parallel listing, streaming, the report of broken input."""

import posixpath
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from .schema import SpeechRow, speech_features
from .utterances import RowChecker, SpeechOptions, Utterance, checked_rows
from .validation import BrokenInputError, BrokenInputReport, SpeechSourceError

REPORT_NAME = "broken_input.json"
ERROR_NAME = "error.txt"
Takes = Callable[[str], bool]


@dataclass
class SpeechConfig(datasets.BuilderConfig, SpeechOptions):
    """Configuration of every speech builder: the options of [`SpeechOptions`], and

    Args:
        data_dir (`str`): Root folder of the audio.
        num_parts (`int`, defaults to 1): Parts of a streaming data set, for as many `DataLoader` workers. Each part
            reads all metadata and checks its share. Preparing with `num_proc` makes as many parts as processes.
        content_hash (`str`): State of the input, part of the cache key; see [`smalle_hf.data.tree.fingerprint`].
            Without it, a prepared listing is reused although the files may have changed.
    """

    num_parts: int = 1
    content_hash: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.validate()

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: Any = None) -> str:
        # The rows do not depend on the number of parts, only their order does.
        kept = {key: value for key, value in config_kwargs.items() if key != "num_parts"}
        return super().create_config_id(kept, custom_features)


class SpeechBuilder(datasets.GeneratorBasedBuilder):
    """Base of the speech builders; a subclass says which utterances there are (`utterances`).

    `builder.report` is the [`BrokenInputReport`] of the listing. It fills while a streaming data set is iterated and
    is complete after `download_and_prepare`, which also writes it beside the data as `broken_input.json`, so that a
    listing from the cache has it too.
    """

    BUILDER_CONFIG_CLASS = SpeechConfig
    VERSION = datasets.Version("1.0.0")  # of the columns: a change makes old caches invalid
    SOURCE = "speech"

    def __init__(self, *args: Any, report: BrokenInputReport | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.report = BrokenInputReport() if report is None else report
        self._report_folder: str | None = None

    def utterances(self, takes: Takes) -> Iterable[Utterance | BrokenInputError]:
        """Yields every utterance of the source and every error found on the way.

        Args:
            takes (`Callable[[str], bool]`): Whether this process lists the utterances of a group. The caller drops
                the others, so asking early only saves time. Errors without an id belong to the group `""`.
        """
        raise NotImplementedError

    def check_source(self) -> None:
        """Raises `SpeechSourceError` or warns before anything is listed."""

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Lists the source, see `datasets.DatasetBuilder.download_and_prepare`, and completes `report`."""
        # A repeated listing may find other rows than the last one: that is what it is for.
        super().download_and_prepare(*args, **{"verification_mode": "no_checks", **kwargs})
        content = self._fs.cat_file(posixpath.join(self._output_dir, REPORT_NAME))
        self.report.section(self._listing).update(BrokenInputReport.from_json(content.decode("utf-8")))

    @property
    def _listing(self) -> str:
        """Name of the section of the report; one report may serve several sources."""
        return f"listing of {self.SOURCE} {self.config_id}"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=speech_features())

    def _make_split_generators_kwargs(self, prepare_split_kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"num_parts": prepare_split_kwargs.get("num_proc") or 1}

    def _split_generators(self, dl_manager: Any, num_parts: int | None = None) -> list[datasets.SplitGenerator]:
        self.check_source()
        num_parts = num_parts or self.config.num_parts
        # `datasets` shares out what is in lists, so `parts` is one.
        parts = {"parts": list(range(num_parts)), "num_parts": num_parts}
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs=parts)]

    def _generate_examples(self, parts: list[int], num_parts: int) -> Iterator[tuple[str, SpeechRow]]:
        def takes(group: str) -> bool:
            return zlib.crc32(group.encode("utf-8", "backslashreplace")) % num_parts in parts

        part = f"part {parts[0]} of {num_parts}"
        folder = self._report_folder
        report = self.report.section(f"{self._listing}, {part}") if folder is None else BrokenInputReport()
        utterances = (utterance for utterance in self.utterances(takes) if takes(_group(utterance)))
        try:
            for row in checked_rows(utterances, RowChecker(self.config, self.SOURCE), report):
                yield row["id"], row
        except SpeechSourceError as error:
            if folder is not None:
                Path(folder, ERROR_NAME).write_text(str(error), encoding="utf-8")
            raise
        if folder is not None:
            report.write(Path(folder, f"{part}.json"))

    def _prepare_split(self, split_generator: datasets.SplitGenerator, **kwargs: Any) -> None:
        # The listing may run in other processes, which have this builder's attributes as they are now.
        with tempfile.TemporaryDirectory() as folder:
            self._report_folder = folder
            try:
                super()._prepare_split(split_generator, **kwargs)
            except datasets.exceptions.DatasetGenerationError:
                # Its cause is lost between processes.
                error = Path(folder, ERROR_NAME)
                if error.exists():
                    raise SpeechSourceError(error.read_text(encoding="utf-8")) from None
                raise
            finally:
                self._report_folder = None
            report = BrokenInputReport()
            for path in sorted(Path(folder).iterdir()):
                report.update(BrokenInputReport.read(path))
        self._fs.pipe_file(posixpath.join(self._output_dir, REPORT_NAME), report.to_json().encode("utf-8"))


def _group(utterance: Utterance | BrokenInputError) -> str:
    if isinstance(utterance, BrokenInputError):
        return utterance.broken.id or ""
    return utterance.group or utterance.id
