"""Words by part of speech, from the SCOWL word lists and a few hand-written tables.

SCOWL (Debian package `scowl`; free to use, copy, modify and redistribute, its output included) lists words by how common
they are but not by part of speech. The inflected forms in the list tell it: a word with a possessive and a plural is a
noun, one with past tense and gerund a verb, one with comparative or adverb an adjective.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SCOWL_DIRECTORY = Path("/usr/share/dict/scowl")
LEVEL_WEIGHTS = {10: 0.5, 20: 0.3, 35: 0.2}
"""How often a word comes from each SCOWL level; level 10 holds the most common words."""

IRREGULAR_VERBS = tuple(
    tuple(line.split())
    for line in """
    become became become|begin began begun|bend bent bent|bind bound bound|blow blew blown|break broke broken
    bring brought brought|build built built|burn burned burned|buy bought bought|carry carried carried|catch caught caught
    choose chose chosen|cut cut cut|draw drew drawn|drink drank drunk|drive drove driven|eat ate eaten|feed fed fed
    feel felt felt|fight fought fought|find found found|forget forgot forgotten|forgive forgave forgiven|get got got
    give gave given|grow grew grown|hear heard heard|hide hid hidden|hit hit hit|hold held held|keep kept kept
    know knew known|lead led led|leave left left|lend lent lent|lose lost lost|make made made|mean meant meant
    meet met met|pay paid paid|put put put|ride rode ridden|ring rang rung|say said said|see saw seen|sell sold sold
    send sent sent|set set set|shake shook shaken|show showed shown|sing sang sung|speak spoke spoken|spend spent spent
    spill spilled spilled|spread spread spread|steal stole stolen|take took taken|teach taught taught|tear tore torn
    tell told told|think thought thought|throw threw thrown|understand understood understood|wear wore worn|win won won
    write wrote written""".replace("\n", "|").split("|")
    if line.split()
)
INTRANSITIVE_VERBS = tuple(
    line.split()[0:2]
    for line in """
    arrive arrived|walk walked|run ran|sleep slept|wait waited|laugh laughed|smile smiled|sing sang|dance danced
    come came|go went|stand stood|sit sat|fall fell|rise rose|swim swam|fly flew|cry cried|work worked|live lived
    rest rested|travel traveled|shout shouted|grow grew|listen listened|speak spoke|talk talked|stay stayed|turn turned
    return returned|climb climbed|jump jumped|move moved|look looked|lie lay|play played|hurry hurried|shine shone
    leave left|stop stopped|begin began|end ended|float floated|drift drifted|wander wandered|whisper whispered""".replace(
        "\n", "|"
    ).split("|")
    if line.split()
)
NOT_OPEN_CLASS = frozenset(
    """a an the i you he she it we they me him her us them my your his its our their this that these those and or but
    if in on at to of by for from with as is am are was were be been being do does did done have has had will would can
    could shall should may might must not no yes so too very than then there here who whom what which when where why how
    all any both each few many more most much other some such own same only just also about above after again against
    before below between down during into off out over through under until up while because s t don ours yours hers
    theirs mine else ever even every anything everything nothing something anyone everyone""".split()
)
UNWANTED_BEGINNINGS = tuple(
    """fuck shit cunt bitch bastard nigg rapis raped raping whore slut porn sexual penis vagin nazi genocid suicid murder
    molest incest pussy negro retard queer lesbian virgin erotic orgasm naked kill terror tortur slave slaught behead
    corpse poison cocaine heroin""".split()
)
UNWANTED_WORDS = frozenset(
    "ass asses anal anus butt cock dick dyke fag fags hell piss rape rapes sex sexes tit tits".split()
)
"""Words left out, so that random sentences hurt no one by accident."""


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

    def pick(self, part: str, rng: random.Random) -> str | tuple[str, str] | Verb:
        """Draws an entry of the named part of speech, common words more often than rare ones."""
        by_level = getattr(self, part)
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


def _usable(word: str) -> bool:
    if word in NOT_OPEN_CLASS or word in UNWANTED_WORDS or word.startswith(UNWANTED_BEGINNINGS):
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


def build_lexicon(levels: dict[int, Iterable[str]]) -> Lexicon:
    """Sorts words into parts of speech by the inflected forms that are listed with them.

    Args:
        levels (`dict[int, Iterable[str]]`): Words of each level with all their forms, as [`read_scowl`] gives them.
    """
    known = {word for words in levels.values() for word in words}
    irregular_bases = {forms[0] for forms in IRREGULAR_VERBS} | {forms[0] for forms in INTRANSITIVE_VERBS}
    parts: dict[str, dict[int, list]] = {
        name: {level: [] for level in levels} for name in ("nouns", "verbs", "adjectives", "adverbs", "words")
    }
    for level in levels:
        for word in sorted(set(levels[level])):
            if not _usable(word):
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
    for base, past, participle in IRREGULAR_VERBS:
        gerund = _irregular_gerund(base)
        frequent.append(Verb(base, third_person(base), past, participle, gerund))
    return Lexicon(**{name: {k: tuple(v) for k, v in by_level.items()} for name, by_level in parts.items()})


def _irregular_gerund(base: str) -> str:
    if base in {"begin", "cut", "forget", "get", "hit", "put", "set", "win"}:
        return base + base[-1] + "ing"
    return (base[:-1] if base.endswith("e") and base != "see" else base) + "ing"
