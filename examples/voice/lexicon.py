"""Words by part of speech, from the SCOWL word lists and a few hand-written tables.

SCOWL (Debian package `scowl`; free to use, copy, modify and redistribute, its output included) lists words by how
common they are but not by part of speech. The inflected forms in the list tell it: a word with a possessive and a
plural is a noun, one with past tense and gerund a verb, one with comparative or adverb an adjective.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

Entry = TypeVar("Entry")

VOCABULARY_FILE = Path(__file__).with_name("vocabulary.yaml")
SCOWL_DIRECTORY = Path("/usr/share/dict/scowl")
LEVEL_WEIGHTS = {10: 0.5, 20: 0.3, 35: 0.2}
"""How often a word comes from each SCOWL level; level 10 holds the most common words."""


def read_vocabulary(path: Path = VOCABULARY_FILE) -> dict[str, list[str]]:
    """Reads the hand-written lists: entries by name of the list."""
    lists = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        name: [entry.strip() for entry in re.split(r"[|]" if "|" in text else ",", text)]
        for name, text in lists.items()
    }


@dataclass(frozen=True)
class Verb:
    """Forms of one verb."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str


@dataclass(frozen=True)
class Lexicon:
    """Words of each part of speech, by SCOWL level, in alphabetical order so that a seed gives the same choice."""

    nouns: dict[int, tuple[tuple[str, str], ...]]
    verbs: dict[int, tuple[Verb, ...]]
    adjectives: dict[int, tuple[str, ...]]
    adverbs: dict[int, tuple[str, ...]]
    words: dict[int, tuple[str, ...]]


def pick(by_level: dict[int, tuple[Entry, ...]], rng: random.Random) -> Entry:
    """Draws an entry of one part of speech, common words more often than rare ones."""
    level = rng.choices(list(LEVEL_WEIGHTS), weights=list(LEVEL_WEIGHTS.values()))[0]
    return rng.choice(by_level[level] or by_level[min(by_level)])


def third_person(base: str) -> str:
    """The form of a verb after he or she, which is also the regular plural of a noun."""
    if base.endswith(("s", "x", "z", "ch", "sh", "o")):
        return base + "es"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + "s"


def _stems(base: str) -> Iterator[str]:
    """What the ending -ing is put on: as it is, without a final e, or with the last consonant doubled."""
    if base.endswith("e") and not base.endswith("ee"):
        yield base[:-1]
    else:
        yield base
        if base[-1] not in "aeiouwxy":
            yield base + base[-1]


def _past(base: str, stem: str) -> str:
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ied"
    return stem + "ed"


def _regular_verb(base: str, known: set[str]) -> Verb | None:
    for stem in _stems(base):
        past, gerund = _past(base, stem), stem + "ing"
        if {past, gerund, third_person(base)} <= known:
            return Verb(base, third_person(base), past, past, gerund)
    return None


def _is_adjective(word: str, known: set[str]) -> bool:
    stem = word[:-1] if word.endswith(("e", "y")) else word
    if word.endswith("y"):
        stem += "i"
    return {stem + "er", stem + "est"} <= known or (
        word + "ly" in known and word.endswith(("ful", "ous", "al", "ive", "ent", "ant", "ish", "less", "ic", "ate"))
    )


def _usable(word: str, left_out: frozenset[str], beginnings: tuple[str, ...]) -> bool:
    if word in left_out or word.startswith(beginnings):
        return False
    return word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 12


def read_scowl(directory: Path = SCOWL_DIRECTORY) -> dict[int, set[str]]:
    """Reads the common American English words.

    Args:
        directory (`Path`): Where the lists lie: `/usr/share/dict/scowl` with Debian's package `scowl`.

    Returns:
        `dict[int, set[str]]`: Words of each level, inflected and possessive forms included.

    Raises:
        FileNotFoundError: The lists are not there.
    """
    levels: dict[int, set[str]] = {}
    for level in LEVEL_WEIGHTS:
        paths = [directory / f"{region}-words.{level}" for region in ("english", "american")]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise FileNotFoundError(f"{missing[0]} not found: install the package `scowl` (apt-get install scowl).")
        levels[level] = {word for path in paths for word in path.read_text(encoding="utf-8").split()}
    return levels


def build_lexicon(levels: Mapping[int, Iterable[str]]) -> Lexicon:
    """Sorts words into parts of speech by the inflected forms that are listed with them.

    Args:
        levels (`Mapping[int, Iterable[str]]`): Words of each level with all their forms, as [`read_scowl`] gives them.
    """
    vocabulary = read_vocabulary()
    irregular = [entry.split() for entry in vocabulary["irregular_verbs"]]
    irregular_bases = {forms[0] for forms in irregular} | {e.split()[0] for e in vocabulary["intransitive_verbs"]}
    left_out = frozenset(vocabulary["closed_class"]) | frozenset(vocabulary["unwanted_words"])
    beginnings = tuple(vocabulary["unwanted_beginnings"])
    known = {word for words in levels.values() for word in words}
    parts: dict[str, dict[int, list]] = {
        name: {level: [] for level in levels} for name in ("nouns", "verbs", "adjectives", "adverbs", "words")
    }
    for level in levels:
        for word in sorted(set(levels[level])):
            if not _usable(word, left_out, beginnings):
                continue
            parts["words"][level].append(word)
            verb = _regular_verb(word, known) if word not in irregular_bases else None
            if verb is not None:
                parts["verbs"][level].append(verb)
            plural = third_person(word)
            if {word + "'s", plural} <= known and not word.endswith(("s", "ing")):
                parts["nouns"][level].append((word, plural))
            if _is_adjective(word, known):
                parts["adjectives"][level].append(word)
            if word.endswith("ly") and word[:-2] in known:
                parts["adverbs"][level].append(word)
    frequent = parts["verbs"][min(levels)]
    for base, past, participle in irregular:
        gerund = _irregular_gerund(base)
        frequent.append(Verb(base, third_person(base), past, participle, gerund))
    return Lexicon(**{name: {k: tuple(v) for k, v in by_level.items()} for name, by_level in parts.items()})


def _irregular_gerund(base: str) -> str:
    if base in {"begin", "cut", "forget", "get", "hit", "put", "set", "win"}:
        return base + base[-1] + "ing"
    return (base[:-1] if base.endswith("e") and base != "see" else base) + "ing"
