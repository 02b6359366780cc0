"""Text in the letters of a vocabulary: what the model reads of what somebody wrote. Needs no torch."""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer

from .phonemes import phonemize
from .text_normalization import normalize_text

# Letters that no decomposition takes apart.
PLAIN_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "ı": "i", "ŋ": "ng"}
)


def write_in_vocabulary(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    language: str,
    phoneme_voice: str | None = None,
    unknown_id: int | None = None,
) -> list[str]:
    """Writes texts as the model reads them: spoken words, in the letters of the vocabulary or in phonemes.

    Args:
        texts (`Sequence[str]`): Any texts.
        tokenizer (`tokenizers.Tokenizer`): The vocabulary.
        language (`str`): Language of [`normalize_text`].
        phoneme_voice (`str`, *optional*): Voice of espeak-ng whose phonemes the model reads; letters if `None`.
        unknown_id (`int`, *optional*): Id of what the vocabulary lacks, if it has one.

    Returns:
        `list[str]`: What decoding the tokens gives back. A letter that the vocabulary lacks is replaced by its plain
        form (é by e) or dropped with a warning.

    Raises:
        ImportError: The model reads phonemes, and espeakng-loader is not installed.
    """
    normalized = [normalize_text(text, language) for text in texts]
    if phoneme_voice is not None:
        normalized = [phonemize(text, phoneme_voice) for text in normalized]
    characters = sorted(set("".join(normalized)) - {" "})
    plain = {character: _plain_form(character) for character in characters}
    known = _known_characters({*characters, *"".join(plain.values())}, tokenizer, unknown_id)
    table, dropped = {}, []
    for character in characters:
        if character not in known:
            form = "".join(letter for letter in plain[character] if letter in known)
            table[ord(character)] = form
            # A combining mark on its own is an accent that its letter does without.
            if not form and not unicodedata.category(character).startswith("M"):
                dropped.append(character)
    if dropped:
        names = " ".join(dropped[:20]) + " ..." * (len(dropped) > 20)
        warnings.warn(f"The vocabulary lacks these characters, which are left out: {names}", stacklevel=4)
    return [re.sub(" +", " ", text.translate(table)).strip() for text in normalized] if table else normalized


def _known_characters(characters: Iterable[str], tokenizer: Tokenizer, unknown_id: int | None) -> set[str]:
    """Those that the vocabulary can write."""
    characters = sorted(characters)
    encoded = tokenizer.encode_batch(characters, add_special_tokens=False)
    return {
        character
        for character, encoding in zip(characters, encoded, strict=True)
        if encoding.ids and unknown_id not in encoding.ids
    }


def _plain_form(character: str) -> str:
    """The letter without its accents, or a near one."""
    decomposed = unicodedata.normalize("NFKD", character.translate(PLAIN_LETTERS))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


__all__ = ["write_in_vocabulary"]
