"""Words as phonemes of the International Phonetic Alphabet, found by espeak-ng.

English spelling says little about sound, and a small voice has better uses for its weights than a dictionary. Words
are looked up one by one, so that each keeps its place in the text: spaces and punctuation stay as they are.
"""

import ctypes
import re
from functools import lru_cache
from threading import Lock

IPA_CHARACTERS = (
    "aeiouyæøœɶɐɑɒɔəɘɛɜɞɤɨɪɯɵʉʊʌʏɚɝᵻ"  # vowels
    "bcdfghjklmnpqrstvwxzçðħŋɓɕɖɗɟɠɡɢɣɥɦɧɫɬɭɮɰɱɲɳɴɸɹɺɻɽɾʀʁʂʃʄʈʋʍʎʐʑʒʔʕʙʛʜʝʟʡʢβθχ"  # consonants
    "ˈˌːˑ\u0303\u0329\u032f"  # stress, length, nasal, syllabic, not syllabic
)
"""Letters and marks that espeak-ng writes, for a vocabulary that serves any language."""

WORD = re.compile(r"[^\W\d_](?:['\u0300-\u036f]?[^\W\d_])*")
LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")

UTF_8, IPA = 1, 2
RETRIEVE_AUDIO = 1
DO_NOT_EXIT = 0x8000


def phonemize(text: str, voice: str = "en-us") -> str:
    """Writes the words of a text as phonemes.

    Args:
        text (`str`): Normalised text: words without digits and abbreviations.
        voice (`str`, defaults to `"en-us"`): Language or voice of espeak-ng: `"en-gb"`, `"de"`, `"fr-fr"`.

    Returns:
        `str`: As many words as before, with stress marks, and the punctuation between them.

    Raises:
        ImportError: espeakng-loader, which brings espeak-ng, is not installed.
        ValueError: espeak-ng has no such voice.
    """
    return WORD.sub(lambda match: _word_phonemes(match[0], voice), text)


@lru_cache(maxsize=65536)
def _word_phonemes(word: str, voice: str) -> str:
    phonemes = LANGUAGE_SWITCH.sub("", _espeak().phonemize(word, voice))
    # A word that is spelled out comes back as several; it stays one.
    return re.sub(r"[\s_-]+", "", phonemes) or word


@lru_cache(maxsize=1)
def _espeak() -> "_Espeak":
    return _Espeak()


class _Espeak:
    """espeak-ng, of which a process has but one: it knows one voice and one caller at a time."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError("Reading text as phonemes needs espeak-ng: pip install espeakng-loader.") from error
        self._lock = Lock()
        self._voice = ""
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        data = espeakng_loader.get_data_path().encode()
        if self._library.espeak_Initialize(RETRIEVE_AUDIO, 0, data, DO_NOT_EXIT) < 0:
            raise ImportError("espeak-ng does not start: reinstall espeakng-loader.")

    def phonemize(self, text: str, voice: str) -> str:
        with self._lock:
            if voice != self._voice:
                if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                    self._voice = ""
                    raise ValueError(f"espeak-ng has no voice {voice!r}: give a language such as 'en-us' or 'de'.")
                self._voice = voice
            buffer = ctypes.create_string_buffer(text.encode())
            rest = ctypes.c_void_p(ctypes.addressof(buffer))
            clauses = []
            while rest.value:
                clauses.append(self._library.espeak_TextToPhonemes(ctypes.byref(rest), UTF_8, IPA).decode())
            return " ".join(clauses)


__all__ = ["IPA_CHARACTERS", "phonemize"]
