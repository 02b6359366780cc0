"""Long texts: cut into sentences for the model, and their speech joined again.

Nothing is lost: the pieces of a text, put together, are the text. White space belongs to the piece before it, so that
a piece tells what kind of pause follows it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

TITLE = re.compile(
    "mr|mrs|ms|mx|dr|prof|rev|fr|st|sgt|capt|cpt|lt|col|gen|maj|cmdr|adm|gov|sen|rep|pres|hon|mt|ft|messrs|mme|mlle|"
    "vs|cf|viz|ca|approx|est"
)
"""Abbreviations that something always follows."""

REFERENCE = re.compile("no|nos|art|arts|fig|figs|eq|sec|ch|chap|vol|vols|pp|p|ed|eds|al")
"""Abbreviations if a number follows, and otherwise words of their own or the end of a reference."""

ABBREVIATION = re.compile(
    "etc|inc|ltd|co|corp|jr|sr|bros|dept|univ|ave|blvd|rd|sq|hr|hrs|min|mins|secs|oz|lb|lbs|jan|feb|mar|apr|jun|jul|"
    "aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thur|thurs|fri|sat|sun"
)
"""Abbreviations that may end a sentence: they do if a capital letter follows."""

CLOSING = "\"'”’»›)\\]}"
OPENING = "\"'“‘«‹([{¿¡"
END = re.compile(
    rf"(?<![.!?…])(?P<mark>[.!?…]+)[{CLOSING}]*(?P<space>\s+)|[。！？][{CLOSING}」』]*\s*|\n[^\S\n]*\n\s*",
)
CLAUSE = re.compile(rf"(?:[,;:—–][{CLOSING}]*\s+|\s(?=[–—(-]\s?)|[、，；：]\s*)")
WORD = re.compile(r"\s+")

SENTENCE_PAUSE = 0.25
PARAGRAPH_PAUSE = 0.6
CLAUSE_PAUSE = 0.1
FADE = 0.005
"""Seconds."""


def split_sentences(text: str) -> list[str]:
    """Cuts a text behind its sentences.

    A full stop ends none within a number, behind a title, an initial or the number of a list, or before a small
    letter; nor does an ellipsis or a quoted question before a small letter. A blank line always does.

    Args:
        text (`str`): Any text.

    Returns:
        `list[str]`: Pieces that put together are the text. Each has a letter or digit, unless the text has none; the
        empty text has no pieces.
    """
    pieces, start, checked, has_word = [], 0, 0, False
    for end in _sentence_ends(text):
        has_word = has_word or _has_word(text[checked:end])
        checked = end
        if has_word and not _is_list_number(text[start:end]):
            pieces.append(text[start:end])
            start, has_word = end, False
    rest = text[start:]
    if _has_word(rest) or not pieces:
        return [*pieces, rest] if rest else pieces
    return [*pieces[:-1], pieces[-1] + rest]


def collect_sentences(fragments: Iterable[str]) -> Iterator[str]:
    """Sentences of a text that arrives bit by bit, such as the words of a language model.

    Args:
        fragments (`Iterable[str]`): Parts of the text, cut anywhere.

    Returns:
        `Iterator[str]`: The pieces of [`split_sentences`], each as soon as a word follows it.
    """
    waiting = ""
    for fragment in fragments:
        waiting += fragment
        *complete, waiting = split_sentences(waiting) or [""]
        yield from complete
    if waiting:
        yield waiting


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Cuts a text into sentences, and those that are too long into clauses, words or letters, whatever is needed.

    Args:
        text (`str`): Any text.
        fits (`Callable[[str], bool]`): Whether the model can speak a piece at once. Of a single character it is not
            asked.

    Returns:
        `list[str]`: Pieces that put together are the text.
    """
    return [piece for sentence in split_sentences(text) for piece in _split_long(sentence, fits)]


def pause_after(piece: str) -> float:
    """Seconds of silence that belong behind a piece: more behind a paragraph, fewer behind a clause, none in a word.

    Args:
        piece (`str`): One of the pieces of [`split_text`], with its white space.
    """
    spoken = piece.rstrip()
    ending = spoken[-20:]
    if re.search(r"\n[^\S\n]*\n", piece[len(spoken) :]):
        return PARAGRAPH_PAUSE
    if re.search(rf"[.!?…。！？][{CLOSING}」』]*$", ending):
        return SENTENCE_PAUSE
    return CLAUSE_PAUSE if re.search(rf"[,;:—–、，；：][{CLOSING}]*$", ending) else 0.0


def join_speech(waveforms: Sequence[np.ndarray], pauses: Sequence[float], sampling_rate: int) -> np.ndarray:
    """Puts the speech of pieces together.

    Args:
        waveforms (sequence of `np.ndarray` of shape `(samples,)`): One per piece.
        pauses (`Sequence[float]`): Seconds of silence behind each; that behind the last one is left out.
        sampling_rate (`int`): Rate in Hz.

    Returns:
        `np.ndarray` of shape `(samples,)`, float32. Edges at a pause are faded over 5 ms, so that nothing clicks; a
        single waveform comes back as it is.

    Raises:
        ValueError: There is nothing to join, or not one pause per waveform.
    """
    if not waveforms or len(waveforms) != len(pauses):
        raise ValueError(f"There are {len(waveforms)} waveforms for {len(pauses)} pauses: pass one pause for each.")
    joiner = SpeechJoiner(sampling_rate)
    parts = [joiner.push(waveforms[0])]
    for waveform, pause in zip(waveforms[1:], pauses, strict=False):
        parts += [joiner.begin(pause), joiner.push(waveform)]
    return np.concatenate([*parts, joiner.finish()])


class SpeechJoiner:
    """[`join_speech`] of speech that comes in chunks. What it gives out is 5 ms behind what it is given: whether a
    piece's end is faded shows when the next one begins.

    Args:
        sampling_rate (`int`): Rate in Hz.
    """

    def __init__(self, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.ramp = np.linspace(0.0, 1.0, round(FADE * sampling_rate), dtype=np.float32)
        self.fade_in = self.ramp[:0]  # what is left of it
        self.held = self.ramp[:0]

    def begin(self, pause: float) -> np.ndarray:
        """Begins another piece, `pause` seconds behind the one before, whose end it returns."""
        ending = self.held * self.ramp[::-1][len(self.ramp) - len(self.held) :]
        self.fade_in, self.held = self.ramp, self.ramp[:0]
        return np.concatenate([ending, np.zeros(round(pause * self.sampling_rate), dtype=np.float32)])

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes the next samples of the piece, of shape `(n,)`; returns those that are certain."""
        samples = np.array(samples, dtype=np.float32)
        num_faded = min(len(self.fade_in), len(samples))
        samples[:num_faded] *= self.fade_in[:num_faded]
        self.fade_in = self.fade_in[num_faded:]
        samples = np.concatenate([self.held, samples])
        num_done = max(len(samples) - len(self.ramp), 0)
        self.held = samples[num_done:]
        return samples[:num_done]

    def finish(self) -> np.ndarray:
        """The end of the last piece."""
        ending, self.held = self.held, self.ramp[:0]
        return ending


def _sentence_ends(text: str) -> Iterator[int]:
    for match in END.finditer(text):
        mark, space = match["mark"], match["space"]
        if mark is None or "\n" in re.sub(r"[^\S\n]", "", space or "")[1:] or match.end() == len(text):
            yield match.end()
            continue
        follows = text[match.end() : match.end() + 10].lstrip(OPENING)[:1]
        if follows.islower() or (
            mark == "." and _is_abbreviation(text[max(match.start() - 40, 0) : match.start()], follows)
        ):
            continue
        yield match.end()


def _is_abbreviation(before: str, follows: str) -> bool:
    """Whether the full stop behind `before` belongs to an abbreviation and ends no sentence."""
    match = re.search(r"[^\W\d_](?:[\w.]*\w)?$", before)
    if match is None:
        return False
    word = match[0].lower()
    if TITLE.fullmatch(word):
        return True
    if REFERENCE.fullmatch(word):
        return follows.isdigit()
    if len(word) == 1:
        return match[0].isupper() and match[0] != "I"
    if "." in word or ABBREVIATION.fullmatch(word):
        return not follows.isupper()
    return False


def _is_list_number(piece: str) -> bool:
    return re.fullmatch(r"\s*[(\[]?(?:\d{1,3}|[A-Za-z])[.)]+\s*", piece) is not None


def _has_word(piece: str) -> bool:
    return any(map(str.isalnum, piece))


def _split_long(piece: str, fits: Callable[[str], bool]) -> list[str]:
    if len(piece) <= 1 or fits(piece):
        return [piece]
    cut = _middle_cut(piece)
    return _split_long(piece[:cut], fits) + _split_long(piece[cut:], fits)


def _middle_cut(piece: str) -> int:
    """Where to halve a piece: behind the clause next to its middle, or the word, or between letters."""
    length = len(piece.rstrip())
    words = [index for index, character in enumerate(piece) if character.isalnum()] or [0]
    for pattern, margin in ((CLAUSE, length // 4), (WORD, 0)):
        cuts = [match.end() for match in pattern.finditer(piece, 0, length)]
        for cut in sorted(cuts, key=lambda cut: abs(2 * cut - length)):
            if margin < cut < length - margin and words[0] < cut <= words[-1]:
                return cut
    return max(len(piece) // 2, 1)


__all__ = ["SpeechJoiner", "collect_sentences", "join_speech", "pause_after", "split_sentences", "split_text"]
