"""From what a source claims about an utterance to a checked row."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .audio_segments import CUT_TOLERANCE, AudioHeader, check_cut, read_header
from .schema import SpeechRow, language_code
from .validation import BrokenInputError, BrokenInputReport, BrokenReason

NUM_CACHED_HEADERS = 4096  # cuts of one recording come close together in a manifest


@dataclass(frozen=True)
class Utterance:
    """What a source says about one utterance, before any check.

    Args:
        id (`str`): Row id.
        audio (`str` or `bytes`): Absolute path, or an encoded audio file.
        text, speaker, language, licence, subset, snr, source: See [`smalle_hf.data.schema`].
        start (`float`, defaults to 0.0): Seconds.
        duration (`float`, *optional*): Seconds. Defaults to the rest of the file.
        sampling_rate (`int`, *optional*): What the source believes the file's rate to be, in Hz.
        end_tolerance (`float`): Seconds by which the end may lie behind the end of the file, which it is moved to.
        group (`str`): Utterances of one group, those of the same id at the least, are listed by the same process.
    """

    id: str
    audio: str | bytes
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    licence: str | None = None
    source: str | None = None
    subset: str | None = None
    snr: float | None = None
    start: float = 0.0
    duration: float | None = None
    sampling_rate: int | None = None
    end_tolerance: float = CUT_TOLERANCE
    group: str = ""

    @property
    def name(self) -> str:
        """How errors call the audio."""
        return self.audio if isinstance(self.audio, str) else f"embedded audio of {self.id}"


@dataclass
class SpeechOptions:
    """Options of every source.

    Args:
        min_duration, max_duration (`float`): Shortest and longest utterance, in seconds.
        speakers (sequence of `str`, *optional*): Keep only these speakers.
        sampling_rate (`int`, *optional*): Refuse files of another rate, in Hz.
        require_text (`bool`, defaults to `True`): Count audio without a transcript as broken.
        speaker, language, licence (`str`, *optional*): Values for rows whose source has none.
        source (`str`, *optional*): Value of the column `source`. Defaults to the name of the format.
    """

    min_duration: float = 0.0
    max_duration: float = math.inf
    speakers: tuple[str, ...] | None = None
    sampling_rate: int | None = None
    require_text: bool = True
    speaker: str | None = None
    language: str | None = None
    licence: str | None = None
    source: str | None = None

    def validate(self) -> None:
        """Raises `ValueError` for values that exclude everything or have the wrong type."""
        if not 0 <= self.min_duration <= self.max_duration:
            raise ValueError(
                f"min_duration {self.min_duration} and max_duration {self.max_duration} leave no utterance: "
                "give seconds, 0 <= min_duration <= max_duration"
            )
        if isinstance(self.speakers, str):
            raise ValueError(f'speakers is a string: pass a list, speakers=["{self.speakers}"]')


class RowChecker:
    """Turns utterances into rows and raises for what is broken. It remembers ids, so use one per listing."""

    def __init__(self, options: SpeechOptions, source: str):
        self.options = options
        self.source = source
        self.speakers = None if options.speakers is None else {str(speaker) for speaker in options.speakers}
        # 64-bit hashes: ids of ten million rows would fill gigabytes, and the chance of a false alarm is 1e-6.
        self.seen: set[int] = set()
        self.headers: OrderedDict[str, AudioHeader | BrokenInputError] = OrderedDict()

    def row(self, utterance: Utterance) -> SpeechRow | None:
        """Returns the row of an utterance, or None where the options leave it out.

        Raises:
            BrokenInputError: The utterance cannot be used.
        """
        options = self.options
        speaker = utterance.speaker or options.speaker
        if self.speakers is not None and speaker not in self.speakers:
            return None
        if utterance.duration is not None and not self._wanted(utterance.duration):
            return None
        self._check_strings(utterance)
        key = hash(utterance.id)
        if key in self.seen:
            raise BrokenInputError(BrokenReason.DUPLICATE_ID, utterance.name, utterance.id, utterance.id)
        text = self._text(utterance)
        header = self._header(utterance)
        start, duration = _segment(utterance, header)
        if not self._wanted(duration):
            return None
        self.seen.add(key)
        return SpeechRow(
            id=utterance.id,
            audio_path=None if isinstance(utterance.audio, bytes) else utterance.audio,
            audio_bytes=utterance.audio if isinstance(utterance.audio, bytes) else None,
            start=start,
            duration=duration,
            sampling_rate=header.sampling_rate,
            text=text,
            speaker=speaker,
            language=language_code(utterance.language or options.language),
            licence=utterance.licence or options.licence,
            source=utterance.source or options.source or self.source,
            subset=utterance.subset,
            snr=utterance.snr,
        )

    def _wanted(self, duration: float) -> bool:
        # A duration that is not a number passes here and is reported by the check of the bounds.
        return not (duration < self.options.min_duration or duration > self.options.max_duration)

    def _check_strings(self, utterance: Utterance) -> None:
        strings = (utterance.id, utterance.name, utterance.text, utterance.speaker, utterance.language)
        for value in strings:
            try:
                (value or "").encode("utf-8")
            except UnicodeEncodeError as error:
                raise BrokenInputError(BrokenReason.NOT_UTF8, utterance.name, repr(value), utterance.id) from error

    def _text(self, utterance: Utterance) -> str | None:
        text = utterance.text if utterance.text is None else utterance.text.strip()
        if any(character.isalnum() for character in text or ""):
            return text
        if not self.options.require_text:
            return None
        reason = BrokenReason.AUDIO_WITHOUT_TEXT if text is None else BrokenReason.EMPTY_TEXT
        raise BrokenInputError(reason, utterance.name, repr(text) if text else "", utterance.id)

    def _header(self, utterance: Utterance) -> AudioHeader:
        header = self._cached_header(utterance)
        if isinstance(header, BrokenInputError):
            raise header.with_id(utterance.id)
        for expected in (self.options.sampling_rate, utterance.sampling_rate):
            if expected is not None and header.sampling_rate != expected:
                detail = f"{header.sampling_rate} Hz where {expected} Hz are expected"
                raise BrokenInputError(BrokenReason.WRONG_SAMPLING_RATE, utterance.name, detail, utterance.id)
        return header

    def _cached_header(self, utterance: Utterance) -> AudioHeader | BrokenInputError:
        if isinstance(utterance.audio, bytes):
            return _try_header(utterance.audio, utterance.name)
        if utterance.audio not in self.headers:
            self.headers[utterance.audio] = _try_header(utterance.audio, utterance.name)
            if len(self.headers) > NUM_CACHED_HEADERS:
                self.headers.popitem(last=False)
        return self.headers[utterance.audio]


def checked_rows(
    utterances: Iterable[Utterance | BrokenInputError], checker: RowChecker, report: BrokenInputReport
) -> Iterator[SpeechRow]:
    """Yields the rows of all good utterances; the others, and errors that the source found, go to the report."""
    for utterance in utterances:
        try:
            if isinstance(utterance, BrokenInputError):
                raise utterance
            row = checker.row(utterance)
        except BrokenInputError as error:
            report.count_row()
            report.add(error)
            continue
        if row is not None:
            report.count_row()
            yield row


def _try_header(audio: str | bytes, name: str) -> AudioHeader | BrokenInputError:
    try:
        return read_header(audio, name)
    except BrokenInputError as error:
        return error


def _segment(utterance: Utterance, header: AudioHeader) -> tuple[float, float]:
    start = utterance.start
    rest = header.duration - start
    duration = rest if utterance.duration is None else utterance.duration
    if rest < duration <= rest + utterance.end_tolerance:
        duration = rest
    check_cut(start, duration, header, utterance.name, utterance.id)
    return start, duration
