"""Random English sentences with exact spelling for a speech synthesiser: plain words only, numbers written out.

Sentences are drawn from a small phrase grammar over a [`Lexicon`]. They are grammatical and make little sense, like
the semantically unpredictable sentences of synthesis evaluation, so a model cannot guess the words and has to read
them.
"""

import random
from collections.abc import Callable, Iterator

from lexicon import Lexicon, pick, read_vocabulary
from num2words import num2words

SUBJECT_PRONOUNS = (
    ("I", False),
    ("you", False),
    ("he", True),
    ("she", True),
    ("it", True),
    ("we", False),
    ("they", False),
)
"""Pronoun, and whether its verb is in the third person singular."""


class SentenceGenerator:
    """Draws sentences.

    Args:
        lexicon ([`Lexicon`]): Open-class words.
        rng (`random.Random`): Source of every choice; the same state gives the same sentences.
    """

    def __init__(self, lexicon: Lexicon, rng: random.Random) -> None:
        self.lexicon = lexicon
        self.rng = rng
        self.vocabulary = read_vocabulary()
        self.intransitive_verbs = [entry.split() for entry in self.vocabulary["intransitive_verbs"]]
        self._ordinary: list[tuple[Callable[[], str], float]] = [
            (self.statement, 8),
            (self.description, 3),
            (self.question, 4),
            (self.command, 2),
            (self.number_sentence, 3),
            (self.name_sentence, 2.5),
            (self.reported, 1.5),
            (self.compound, 2.5),
            (self.short, 1.5),
        ]
        self._special: list[tuple[Callable[[], str], float]] = [
            (self.word_list, 2),
            (self.repeat, 1),
            (self.spelling, 1),
            (self.number, 1),
            (self.long, 1.5),
            (self.single_word, 1),
            (self.phrase, 0.7),
        ]

    def ordinary(self) -> str:
        """A sentence of 2 to about 20 words."""
        return self._finish(self._choose(self._ordinary))

    def any(self) -> str:
        """An ordinary sentence, or at times a list, a repetition, a spelling, a number or a very long sentence."""
        return self._finish(self._choose(self._special)) if self.rng.random() < 0.22 else self.ordinary()

    def _choose(self, rules: list[tuple[Callable[[], str], float]]) -> str:
        makers, weights = zip(*rules, strict=True)
        return self.rng.choices(makers, weights=weights)[0]()

    @staticmethod
    def _finish(text: str) -> str:
        text = text if text[-1] in ".?!" else text + "."
        return text[0].upper() + text[1:]

    def word(self, kind: str) -> str:
        """An entry of the named list of `vocabulary.yaml`."""
        return self.rng.choice(self.vocabulary[kind])

    def _maybe(self, chance: float, maker: Callable[[], str]) -> str:
        return " " + maker() if self.rng.random() < chance else ""

    # Phrases

    def noun(self) -> str:
        return pick(self.lexicon.nouns, self.rng)[0]

    def plural(self) -> str:
        return pick(self.lexicon.nouns, self.rng)[1]

    def adjective(self) -> str:
        return pick(self.lexicon.adjectives, self.rng)

    def noun_phrase(self) -> tuple[str, bool]:
        """A noun phrase, and whether it is singular."""
        draw = self.rng.random()
        adjective = self._maybe(0.4, self.adjective).strip()
        if draw < 0.55:
            phrase = f"{adjective} {self.noun()}".strip()
            determiner = self.word("determiners")
            if determiner == "a" and phrase[0] in "aeiou":
                determiner = "an"
            return f"{determiner} {phrase}", True
        if draw < 0.8:
            return f"{self.word('plural_determiners')} {adjective} {self.plural()}".replace("  ", " "), False
        if draw < 0.87:
            return f"{self.small_number()} {adjective} {self.plural()}".replace("  ", " "), False
        if draw < 0.95:
            return self.word("names"), True
        return f"the {self.noun()} of the {self.noun()}", True

    def subject(self) -> tuple[str, bool]:
        return self.rng.choice(SUBJECT_PRONOUNS) if self.rng.random() < 0.45 else self.noun_phrase()

    def object(self) -> str:
        return self.word("object_pronouns") if self.rng.random() < 0.15 else self.noun_phrase()[0]

    def prepositional(self) -> str:
        return f"{self.word('prepositions')} {self.noun_phrase()[0]}"

    def when(self) -> str:
        return self.word("times")

    def adverb(self) -> str:
        return pick(self.lexicon.adverbs, self.rng)

    def small_number(self) -> str:
        return num2words(self.rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 25, 30, 50, 100)))

    def predicate(self, singular: bool, first: bool = False) -> str:
        """A verb phrase that agrees with its subject."""
        verb, draw = pick(self.lexicon.verbs, self.rng), self.rng.random()
        be = "am" if first else "is" if singular else "are"
        was = "was" if singular or first else "were"
        if draw < 0.4:
            return f"{self._maybe(0.15, self.adverb)} {verb.past} {self.object()}".strip()
        if draw < 0.5:
            return f"{verb.third if singular else verb.base} {self.object()}"
        if draw < 0.68:
            return f"{self.word('modals')} {verb.base} {self.object()}"
        if draw < 0.78:
            return f"{self.rng.choice((be, was))} {verb.gerund} {self.object()}"
        if draw < 0.86:
            return f"{'has' if singular and not first else 'have'} {verb.participle} {self.object()}"
        if draw < 0.92:
            return f"{was} {verb.participle} by {self.object()}"
        return f"{self.rng.choice(self.intransitive_verbs)[1]} {self.prepositional()}"

    # Sentences

    def statement(self) -> str:
        subject, singular = self.subject()
        clause = f"{subject} {self.predicate(singular, subject == 'I')}"
        clause += self._maybe(0.3, self.prepositional) + self._maybe(0.2, self.when)
        return f"{self.when()}, {clause}" if self.rng.random() < 0.06 else clause

    def description(self) -> str:
        subject, singular = self.subject()
        be = ("am", "was") if subject == "I" else ("is", "was") if singular else ("are", "were")
        extra = self.word("degrees") + " " if self.rng.random() < 0.4 else ""
        if self.rng.random() < 0.25:
            thing, single = self.noun_phrase()
            opening = self.rng.choice(("there is", "there was", "here is") if single else ("there are", "there were"))
            return f"{opening} {thing} {self.prepositional()}"
        negation = " not" if self.rng.random() < 0.15 else ""
        return f"{subject} {self.rng.choice(be)}{negation} {extra}{self.adjective()}" + self._maybe(
            0.35, self.prepositional
        )

    def question(self) -> str:
        verb = pick(self.lexicon.verbs, self.rng)
        subject, singular = self.subject()
        do = self.rng.choice(("did", "does" if singular else "do", "can", "will", "would", "should", "could"))
        be = "am" if subject == "I" else "is" if singular else "are"
        return (
            self.rng.choice(
                (
                    f"{do} {subject} {verb.base} {self.object()}",
                    f"{be} {subject} {self.adjective()}",
                    f"{be} {subject} {verb.gerund} {self.object()}",
                    f"{self.rng.choice(('why', 'how', 'when', 'where'))} {do} {subject} {verb.base} {self.object()}",
                    f"what {do} {subject} {verb.base} {self.prepositional()}",
                    f"who {verb.past} {self.object()}",
                    f"which {self.noun()} {be if subject != 'I' else 'is'} {self.adjective()}",
                    f"how many {self.plural()} {do} {subject} {verb.base}",
                    f"where is {self.noun_phrase()[0]}",
                    f"do you know {self.noun_phrase()[0]}",
                )
            )
            + "?"
        )

    def command(self) -> str:
        verb = pick(self.lexicon.verbs, self.rng)
        opening = self.rng.choice(("", "", "", "please ", "don't ", "let us ", "never ", "you must "))
        ending = self.rng.choice((self.prepositional, self.when, self.adverb))()
        return f"{opening}{verb.base} {self.object()} {ending}"

    def number(self) -> str:
        top = self.rng.choice((20, 100, 1000, 10000, 1000000))
        return num2words(self.rng.randrange(top)).replace(",", "")

    def number_sentence(self) -> str:
        number, ordinal = self.number(), num2words(self.rng.randint(1, 31), to="ordinal")
        year = num2words(self.rng.randint(1700, 2030), to="year")
        month, hour = self.word("months"), num2words(self.rng.randint(1, 12))
        minutes = self.rng.choice(("half past", "a quarter to", "ten past", "twenty to", "five to"))
        name, subject = self.word("names"), self.subject()[0]
        return self.rng.choice(
            (
                f"{subject} sold {number} {self.plural()} {self.when()}",
                f"it is {minutes} {hour} {self.rng.choice(('now', 'in the morning', 'in the afternoon', 'already'))}",
                f"{name} was born on {month} {ordinal}, {year}",
                f"the {self.noun()} costs {number} dollars",
                f"in {year} there were {number} {self.plural()} {self.prepositional()}",
                f"call {number} for the {self.noun()}",
                f"the {ordinal} {self.noun()} was {self.adjective()}",
                f"on {self.word('days')} the {ordinal} of {month} we {pick(self.lexicon.verbs, self.rng).past} it",
                f"about {number} percent of the {self.plural()} were {self.adjective()}",
                f"{name} is {num2words(self.rng.randint(1, 99))} years old",
                f"room {number} is on the {ordinal} floor",
                f"{number} and {self.number()} make {self.number()}",
            )
        )

    def name_sentence(self) -> str:
        one, two = self.rng.sample(self.vocabulary["names"], 2)
        place, day, title = (
            self.word("places"),
            self.word("days"),
            self.rng.choice(("Mister", "Miss", "Doctor")),
        )
        surname, verb = self.word("surnames"), pick(self.lexicon.verbs, self.rng)
        return self.rng.choice(
            (
                f"{one} and {two} {verb.past} {self.object()}",
                f"{one} {surname} lives in {place}",
                f"{one}, this is {two}",
                f"{title} {surname} {verb.past} {self.object()} on {day}",
                f"my {self.noun()} from {place} is {self.adjective()}",
                f"we went to {place} with {one} {self.when()}",
                f"{one} told {two} about {self.noun_phrase()[0]}",
                f"have you seen {one} {surname}?",
                f"{one}'s {self.noun()} is {self.adjective()}",
                f"on {day} {one} will go from {place} to {self.word('places')}",
            )
        )

    def reported(self) -> str:
        verb = self.rng.choice(("said", "thought", "knew", "told me", "believed", "hoped", "heard", "wrote"))
        return f"{self.subject()[0]} {verb} that {self.statement()}"

    def compound(self) -> str:
        return f"{self.statement()}, {self.word('conjunctions')} {self.statement()}"

    def short(self) -> str:
        verb, subject = self.rng.choice(self.intransitive_verbs), self.subject()[0]
        return self.rng.choice(
            (f"{subject} {verb[1]}", f"{self.noun_phrase()[0]}", f"{self.adjective()} {self.plural()}", f"{verb[0]}!")
        )

    def long(self) -> str:
        clauses = [self.statement()]
        target = self.rng.randint(20, 36)
        while sum(len(clause.split()) for clause in clauses) < target:
            clauses.append(f"{self.word('conjunctions')} {self.statement()}")
        return ", ".join(clauses)

    def single_word(self) -> str:
        return pick(self.lexicon.words, self.rng)

    def word_list(self) -> str:
        words = [pick(self.lexicon.words, self.rng) for _ in range(self.rng.randint(2, 7))]
        return self.rng.choice((", ", " ")).join(words[:-1]) + self.rng.choice((", ", " and ")) + words[-1]

    def repeat(self) -> str:
        word = self.rng.choice((self.word("exclamations"), self.single_word()))
        times = self.rng.randint(2, 7)
        repeated = self.rng.choice((", ", " ")).join([word] * times)
        return self.rng.choice((repeated, f"{repeated}, {self.statement()}", f"it was {repeated} {self.adjective()}"))

    def spelling(self) -> str:
        word = self.rng.choice((self.word("names"), self.noun()))[:8]
        letters = " ".join(word.upper())
        alphabet = " ".join(self.rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=self.rng.randint(2, 7)))
        return self.rng.choice((f"{word} is spelled {letters}", letters, alphabet, f"the code is {alphabet}"))

    def phrase(self) -> str:
        return self.word("phrases")


def unique_sentences(generator: SentenceGenerator, count: int, ordinary: bool, seen: set[str]) -> Iterator[str]:
    """Draws sentences that differ from each other and from those seen, ignoring case and punctuation.

    Args:
        generator ([`SentenceGenerator`]): Where they come from.
        count (`int`): How many.
        ordinary (`bool`): Leave out lists, repetitions, spellings and very long sentences.
        seen (`set[str]`): Normalised sentences that must not come again; grows with every sentence.
    """
    made = 0
    while made < count:
        sentence = generator.ordinary() if ordinary else generator.any()
        key = normalise(sentence)
        if key in seen or len(key.split()) > 40:
            continue
        seen.add(key)
        made += 1
        yield sentence


def normalise(sentence: str) -> str:
    """Lower-case words with single spaces: two sentences that sound the same are the same."""
    return " ".join("".join(c if c.isalnum() or c == "'" else " " for c in sentence.lower()).split())
