"""Text in the letters of a vocabulary: what the model reads of what somebody wrote. Needs no torch."""

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
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


def tokenize_texts(
    text: Any,
    prompt_text: Any,
    has_voice: bool,
    write: Callable[[list[str]], list[str]],
    encode: Callable[[list[str]], list[list[int]]],
    max_length: int,
) -> list[np.ndarray]:
    """Ids of texts, each behind what is said in the voice that it shall be spoken in.

    Args:
        text (`str` or `list[str]`): What to say.
        prompt_text (`str` or `list[str]`, *optional*): What is said in the voice prompt; one serves all texts.
        has_voice (`bool`): Whether there is a voice prompt.
        write (`Callable`): Texts as the model reads them, see [`write_in_vocabulary`].
        encode (`Callable`): Token ids of such texts, begin and end included.
        max_length (`int`): Longest text in tokens.

    Returns:
        `list[np.ndarray]` of shape `(S_i,)`, int64.

    Raises:
        TypeError: A text is no string.
        ValueError: A text is empty or too long, or the numbers of texts and transcripts differ.
    """
    texts = _as_texts(text, "text")
    prompts = match_rows(_as_texts(prompt_text, "audio_prompt_text"), len(texts), "transcripts") if prompt_text else []
    if has_voice and prompt_text is None:
        warnings.warn(
            "The voice prompt has no transcript and the speech may stumble: pass `audio_prompt_text`, or '' if the "
            "text holds it already.",
            stacklevel=3,
        )
    written = write([*texts, *prompts])
    spoken = written[: len(texts)]
    for index, (raw, words) in enumerate(zip(texts, spoken, strict=True)):
        if not any(map(str.isalnum, words)):
            raise ValueError(f"Text {index} has nothing to say: {raw[:40]!r}. Pass at least one word.")
    if prompts:
        spoken = [f"{prompt} {words}".strip() for prompt, words in zip(written[len(texts) :], spoken, strict=True)]
    ids = encode(spoken)
    longest = max(map(len, ids))
    if longest > max_length:
        raise ValueError(
            f"A text has {longest} tokens, more than `max_text_length` ({max_length}): split it into sentences."
        )
    return [np.asarray(row, dtype=np.int64) for row in ids]


def match_rows(rows: list[Any], count: int, name: str) -> list[Any]:
    """As many rows as there are texts: one serves all.

    Raises:
        ValueError: There are neither one nor as many.
    """
    if len(rows) not in (1, count):
        raise ValueError(f"There are {len(rows)} {name} for {count} texts: pass one for all texts, or one for each.")
    return rows * count if len(rows) == 1 else rows


def pad_rows(rows: list[np.ndarray], value: int) -> np.ndarray:
    """Stacks rows of shape `(T_i, ...)` to `(B, T, ...)`, padded on the right."""
    padded = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), value, dtype=rows[0].dtype)
    for row, target in zip(rows, padded, strict=True):
        target[: len(row)] = row
    return padded


def _as_texts(text: Any, name: str) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(isinstance(entry, str) for entry in texts):
        raise TypeError(f"`{name}` must be a string or a list of at least one string.")
    return texts


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


__all__ = ["match_rows", "pad_rows", "tokenize_texts", "write_in_vocabulary"]
