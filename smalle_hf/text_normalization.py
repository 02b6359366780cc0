"""Text as it is spoken: the form in which the model is trained on text and reads it.

[`normalize_text`] is idempotent and takes any Unicode string. What a vocabulary does with the letters that remain is
the processor's business.
"""

import re
import unicodedata
from functools import lru_cache

from num2words import CONVERTER_CLASSES, num2words

from .english_normalization import verbalize_addresses, verbalize_english

# Compatibility normalisation (NFKC) would join these to their neighbours: "1½" to "11/2", "´" to a combining accent.
BEFORE_NFKC = str.maketrans(
    {
        **{fraction: f" {fraction}" for fraction in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"},
        **dict.fromkeys("´΄᾽᾿", "'"),
        **dict.fromkeys("™®©℠¨¸¯", ""),
        "²": "^2",
        "³": "^3",
        "№": "No. ",
    }
)
AFTER_NFKC = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′‹›`ʹʼ", "'"),
        **dict.fromkeys("“”„‟″«»〝〞", '"'),
        **dict.fromkeys("‐⁃", "-"),
        **dict.fromkeys("‒−", "–"),
        **dict.fromkeys("—―⸺", " - "),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("[{⟨<", " ("),
        **dict.fromkeys("]}⟩>", ") "),
        **dict.fromkeys("、،|", ", "),
        **dict.fromkeys("。۔।", ". "),
        **dict.fromkeys("*•·\\", " "),
        **dict.fromkeys("¿¡", ""),
        "İ": "i",  # its lower-case form is two characters, of which one is no letter
        "؟": "?",
        "؛": ";",
    }
)
INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn")

POINT_DECIMAL_LANGUAGES = ("ar", "bn", "fa", "he", "ja", "kn", "ko", "te", "th", "zh")
MAX_READ_DIGITS = 15
"""Longer numbers are read digit by digit, as one reads a telephone or account number."""


def normalize_text(text: str, language: str = "en") -> str:
    """Writes a text out in lower-case words: numbers, money, times, dates, units, abbreviations, addresses of the web.

    Args:
        text (`str`): Any text; lone surrogates, control characters and unassigned code points are taken out of it.
        language (`str`, defaults to `"en"`): Language code such as `"en"`, `"de"` or `"pt-BR"`. English is written out
            in full; of the languages that num2words knows the numbers are; for any other one, only characters, case
            and white space are normalised.

    Returns:
        `str`: The text as it is spoken, `""` if nothing remains. Accents and foreign letters are kept.
    """
    code = language.replace("-", "_")
    is_english = code.split("_")[0] == "en"
    text = _plain_characters(text)
    if is_english:
        text = verbalize_addresses(text)
    text = re.sub(r"_|~(?! ?[\d$£€¥₹])" if is_english else "[_~]", " ", text)
    text = _tidy(re.sub(r"–|-{2,}", " - ", text))
    text = verbalize_english(text) if is_english else _verbalize_numbers(text, code)
    # Lower-casing can leave decomposed letters behind, which NFKC composes again.
    return _tidy(unicodedata.normalize("NFKC", text.lower()))


def _plain_characters(text: str) -> str:
    # Twice: a character that is taken out may have kept a letter from its accent, and NFKC makes new spaces.
    text = unicodedata.normalize("NFKC", "".join(map(_visible, text.translate(BEFORE_NFKC))))
    text = unicodedata.normalize("NFKC", "".join(map(_visible, text.translate(AFTER_NFKC))))
    # An accent belongs on a letter: on a digit it would end up on the last letter of the number's name.
    text = re.sub(r"(?<![^\W\d_]|[\u0300-\u036f])[\u0300-\u036f]+", "", text)
    return re.sub(r"(?<=\d) ?– ?(?=[\d$£€¥])|(?<!\S)–(?=\d)", "-", text)


@lru_cache(maxsize=4096)
def _visible(character: str) -> str:
    """The character, an ASCII digit for a digit of any script, a space for any white space, else nothing."""
    if character.isspace():
        return " "
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return "" if unicodedata.category(character) in INVISIBLE_CATEGORIES else character


def _tidy(text: str) -> str:
    """One space between words, none before punctuation, parentheses as pauses, no repeated punctuation."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" ?[()][ ()]*$", "", text)
    text = re.sub(r"(?<=[.,!?;:]) ?[()][ ()]*", " ", text)
    text = re.sub(r" ?[()][ ()]*", ", ", text)
    text = re.sub(r" (?=[.,!?;:](?!\w))", "", text)
    text = re.sub(r",[, ]*(?=[.,!?;:](?!\w))", "", text)
    text = re.sub(r"([!?;:'\"])\1+", r"\1", text)
    text = re.sub(r"\.{2,}", "...", text)
    return re.sub(r"^[,;: ]+| +$", "", text)


@lru_cache(maxsize=32)
def _num2words_language(code: str) -> str | None:
    return next((candidate for candidate in (code, code.split("_")[0]) if candidate in CONVERTER_CLASSES), None)


def _verbalize_numbers(text: str, code: str) -> str:
    """Numbers in the words of a language other than English; they stay where num2words does not know them."""
    language = _num2words_language(code)
    if language is None:
        return text
    group, decimal = (",", ".") if language[:2] in POINT_DECIMAL_LANGUAGES else (".", ",")
    number = rf"\d{{1,3}}(?:\{group}\d{{3}}){{1,4}}(?![\d\{group}])(?:\{decimal}\d{{1,9}}(?!\d))?"
    number += r"|\d+(?:[.,]\d{1,9}(?![.,]?\d))?"

    def read(match: re.Match[str]) -> str:
        digits = match[0]
        if re.fullmatch(rf"\d{{1,3}}(\{group}\d{{3}})+(\{decimal}\d+)?", digits):
            digits = digits.replace(group, "")
        return f" {_number_in_words(digits.replace(',', '.'), language)} "

    return re.sub(number, read, text)


def _number_in_words(number: str, language: str) -> str:
    whole = number.partition(".")[0]
    try:
        if len(whole) > MAX_READ_DIGITS or (len(whole) > 1 and whole.startswith("0")):
            return " ".join(num2words(int(digit), lang=language) for digit in number if digit.isdecimal())
        return num2words(float(number) if "." in number else int(number), lang=language)
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        # Converters of num2words differ in what they cannot say and in how they fail.
        return number


__all__ = ["normalize_text"]
