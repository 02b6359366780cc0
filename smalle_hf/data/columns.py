"""Column names: which column of a manifest or data set holds what."""

from collections.abc import Collection, Mapping
from typing import Any

from .utterances import Utterance
from .validation import BrokenInputError, BrokenReason, SpeechSourceError

# Names in use, the first present one counts. The keys are what `columns=` may override.
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "audio_path", "audio_filepath", "path", "file", "file_name", "filename", "wav"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "id": ("id", "utterance_id", "utt_id"),
    "speaker": ("speaker", "speaker_id", "client_id", "speaker_name"),
    "language": ("language", "lang", "locale"),
    "licence": ("licence", "license"),
    "source": ("source", "dataset"),
    "subset": ("subset", "split"),
    "start": ("start", "offset"),
    "duration": ("duration",),
    "sampling_rate": ("sampling_rate", "sample_rate"),
    "snr": ("snr",),
}
NUMBERS = ("start", "duration", "sampling_rate", "snr")


def find_columns(
    available: Collection[str], columns: Mapping[str, str] | None = None, require_text: bool = True
) -> dict[str, str]:
    """Says which of the available columns holds what.

    Args:
        available (collection of `str`): Names of the columns that there are.
        columns (mapping of `str` to `str`, *optional*): Overrides, for example `{"text": "target_text"}`; the keys are
            those of `COLUMN_NAMES`.
        require_text (`bool`, defaults to `True`): Whether a text column must exist.

    Returns:
        `dict[str, str]`: Name of the column by its role. Roles without a column are absent.

    Raises:
        SpeechSourceError: An override names no role or no column, or there is no column for the audio or the text.

    Example:
        >>> from smalle_hf.data.columns import find_columns
        >>> find_columns(["path", "sentence", "age"])
        {'audio': 'path', 'text': 'sentence'}
    """
    columns = dict(columns or {})
    for role, name in columns.items():
        if role not in COLUMN_NAMES:
            raise SpeechSourceError(f"unknown column role {role!r}: choose from {', '.join(COLUMN_NAMES)}")
        if name not in available:
            raise SpeechSourceError(f"no column {name!r} for {role}: there are {', '.join(map(str, available))}")
    for role, names in COLUMN_NAMES.items():
        present = [name for name in names if name in available]
        if role not in columns and present:
            columns[role] = present[0]
    for role in ("audio", "text") if require_text else ("audio",):
        if role not in columns:
            choices = ", ".join(map(str, available))
            raise SpeechSourceError(f"no column for the {role}: pass columns={{'{role}': name}} with one of {choices}")
    return columns


def claim(values: Mapping[str, Any], audio: str | bytes, id: str, place: str) -> Utterance:
    """Builds an utterance from the values of a manifest line or data set row.

    Args:
        values (mapping): Value by role, see `COLUMN_NAMES`; absent, None and empty mean unknown.
        audio (`str` or `bytes`): Absolute path or embedded file.
        id (`str`): Row id.
        place (`str`): Where the row comes from, for errors.

    Raises:
        BrokenInputError: A number is not a number, or the text is not a string.
    """
    text = values.get("text")
    if text is not None and not isinstance(text, str):
        raise BrokenInputError(BrokenReason.BAD_METADATA, place, f"text is {type(text).__name__}, not a string", id)
    numbers = {role: _number(values.get(role), role, place, id) for role in NUMBERS}
    rate = numbers["sampling_rate"]
    return Utterance(
        id=id,
        audio=audio,
        text=text,
        start=numbers["start"] or 0.0,
        duration=numbers["duration"],
        sampling_rate=None if rate is None else int(rate),
        snr=numbers["snr"],
        speaker=_string(values.get("speaker")),
        language=_string(values.get("language")),
        licence=_string(values.get("licence")),
        source=_string(values.get("source")),
        subset=_string(values.get("subset")),
    )


def _number(value: Any, role: str, place: str, id: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BrokenInputError(BrokenReason.BAD_METADATA, place, f"{role} is {value!r}, not a number", id) from error


def _string(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
