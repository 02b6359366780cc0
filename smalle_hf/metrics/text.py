"""The form in which texts are compared: what is heard, without case, punctuation and spelling of numbers."""

import re

from ..text_normalization import normalize_text

NOT_LETTERS = re.compile(r"[^\w']|_")
LOOSE_APOSTROPHES = re.compile(r"(?<!\w)'|'(?!\w)")


def scoring_text(text: str, language: str = "en") -> str:
    """Normalizes a reference and a transcription in the same way, so that only differences that one hears remain.

    Args:
        text (`str`): Any text.
        language (`str`, defaults to `"en"`): Language of its numbers and abbreviations.

    Returns:
        `str`: Lower-case words with single spaces between them; empty if the text has no letters.
    """
    # Corpora in capitals would otherwise be read as acronyms, letter by letter.
    spoken = normalize_text(text.lower() if text.isupper() else text, language)
    return " ".join(LOOSE_APOSTROPHES.sub(" ", NOT_LETTERS.sub(" ", spoken)).split())


__all__ = ["scoring_text"]
