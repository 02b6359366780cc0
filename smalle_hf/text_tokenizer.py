"""The text vocabulary: pad, begin and end of text, characters, then byte-pair merges (256 entries in the paper).

Spaces are characters like any other, and there is no unknown token: what the vocabulary lacks yields no token at all.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
"""In the order of their ids: 0 pad, 1 begin of text, 2 end of text."""

ENGLISH_CHARACTERS = " !\"',-.:;?abcdefghijklmnopqrstuvwxyz"
"""Characters that every vocabulary has."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 256) -> PreTrainedTokenizerFast:
    """Learns the vocabulary of normalised texts; the same texts in the same order give the same vocabulary.

    Args:
        texts (`Iterable[str]`): Normalised texts.
        vocab_size (`int`, defaults to 256): Entries. Fewer come out if the texts have no more pairs to merge.

    Returns:
        `PreTrainedTokenizerFast`: The tokenizer, which encodes a text as begin, tokens, end.

    Raises:
        ValueError: There is no text, or `vocab_size` leaves no room for the characters that every vocabulary has.
    """
    texts = list(texts)
    if not any(texts):
        raise ValueError("There is no text to train a vocabulary on: pass at least one that is not empty.")
    room = vocab_size - len(SPECIAL_TOKENS) - len(ENGLISH_CHARACTERS)
    if room < 0:
        least = vocab_size - room
        raise ValueError(f"`vocab_size` ({vocab_size}) must be at least {least} to hold the letters and punctuation.")
    tokenizer = _empty_tokenizer()
    alphabet = [*ENGLISH_CHARACTERS, *_frequent_letters(texts, room)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    dropped = {ord(character): None for character in set("".join(texts)) - set(alphabet)}
    tokenizer.train_from_iterator((text.translate(dropped) for text in texts), trainer)
    return _finish(tokenizer)


def character_tokenizer(characters: Iterable[str] = ENGLISH_CHARACTERS) -> PreTrainedTokenizerFast:
    """Builds a vocabulary of single characters, without merges.

    Args:
        characters (`Iterable[str]`): Characters besides those that every vocabulary has.

    Returns:
        `PreTrainedTokenizerFast`: The tokenizer, which encodes a text as begin, characters, end.

    Raises:
        ValueError: One entry is not a single character.
    """
    alphabet = sorted({*ENGLISH_CHARACTERS, *characters})
    if wrong := [entry for entry in alphabet if len(entry) != 1]:
        raise ValueError(f"{wrong[0]!r} is not a single character: pass a string or a list of single characters.")
    entries = [*SPECIAL_TOKENS.values(), *alphabet]
    return _finish(_empty_tokenizer({entry: index for index, entry in enumerate(entries)}))


def _frequent_letters(texts: list[str], count: int) -> list[str]:
    """Letters and accents other than English ones, the most frequent first, none that occurs only once."""
    frequencies = Counter(character for text in texts for character in text if character not in ENGLISH_CHARACTERS)
    letters = [
        character
        for character, frequency in sorted(frequencies.items(), key=lambda item: (-item[1], item[0]))
        if frequency > 1 and unicodedata.category(character)[0] in "LM"
    ]
    return letters[:count]


def _empty_tokenizer(vocabulary: dict[str, int] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary or {}, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # Merges stay within a word and the space before it; punctuation is never merged with a word.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[\p{L}\p{M}]+|."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _finish(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    pad, begin, end = SPECIAL_TOKENS.values()
    tokenizer.add_special_tokens([pad, begin, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


__all__ = ["ENGLISH_CHARACTERS", "SPECIAL_TOKENS", "character_tokenizer", "train_tokenizer"]
