"""The one table that every speech source is turned into: a row is one utterance, transcribed or not.

| column | type | meaning |
|---|---|---|
| `id` | string | unique in the data set |
| `audio_path` | string or null | absolute path of the audio file; null when the audio is embedded |
| `audio_bytes` | binary or null | a whole encoded audio file (wav, flac, ...); null when there is a path |
| `start` | float64 | seconds from the beginning of the file |
| `duration` | float64 | seconds |
| `sampling_rate` | int32 | Hz, of the file as it is stored |
| `text` | string or null | transcript; null only where untranscribed audio was asked for |
| `speaker` | string or null | speaker id of the source |
| `language` | string or null | ISO 639-1 code where the source's value is known, else its own value |
| `licence` | string or null | licence of the recording |
| `source` | string | name of the data set, for example `librilight` |
| `subset` | string or null | subset or split inside the source, for example `medium` or `train-clean-100` |
| `snr` | float64 or null | signal-to-noise ratio in dB, where the source measures it |

`datasets.Audio` is not used: its decoding needs a library of its own and it cannot read a part of a file.
[`read_segment`] turns a row into samples and reads no more of the file than the row covers.
"""

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import datasets

LANGUAGE_CODES = {
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "polish": "pl",
    "portuguese": "pt",
    "spanish": "es",
}


class SpeechRow(TypedDict):
    """One utterance; the columns are described at the top of this module."""

    id: str
    audio_path: str | None
    audio_bytes: bytes | None
    start: float
    duration: float
    sampling_rate: int
    text: str | None
    speaker: str | None
    language: str | None
    licence: str | None
    source: str
    subset: str | None
    snr: float | None


def speech_features() -> "datasets.Features":
    """Returns the `datasets.Features` of a speech row, in the order of the table above.

    Example:
        >>> from smalle_hf.data import speech_features
        >>> list(speech_features())[:3]
        ['id', 'audio_path', 'audio_bytes']
    """
    from datasets import Features, Value

    return Features(
        {
            "id": Value("string"),
            "audio_path": Value("string"),
            "audio_bytes": Value("binary"),
            "start": Value("float64"),
            "duration": Value("float64"),
            "sampling_rate": Value("int32"),
            "text": Value("string"),
            "speaker": Value("string"),
            "language": Value("string"),
            "licence": Value("string"),
            "source": Value("string"),
            "subset": Value("string"),
            "snr": Value("float64"),
        }
    )


def language_code(language: str | None) -> str | None:
    """Maps a language as corpora write it ("English", "en") to its ISO 639-1 code; an unknown value stays as it is.

    Example:
        >>> from smalle_hf.data.schema import language_code
        >>> language_code("English"), language_code("fr")
        ('en', 'fr')
    """
    if not language:
        return None
    return LANGUAGE_CODES.get(language.strip().lower(), language.strip())
