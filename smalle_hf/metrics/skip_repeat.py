"""Skipped and repeated words: as a recognizer hears them, and as the alignment of the model shows them.

The figures of the paper (section 4: utterances with a skip, and with a repeat, of 100). The two views fail
differently: the recognizer mishears, the alignment says what the model meant to say; where both agree there is
hardly a doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

import datasets
import evaluate
import jiwer
import torch

from ..alignment import analyze_alignment, words_with
from .text import scoring_text

SAME_SOUND = 0.75
"""Similarity of their letters from which two runs of heard words are copies of each other."""


@dataclass(frozen=True)
class WordRuns:
    """Runs of words that are skipped or repeated in one utterance.

    Attributes:
        skipped (`tuple[str, ...]`): Text that is not heard, one entry per run.
        repeated (`tuple[str, ...]`): Text that is heard twice in a row although it is written once, one entry per run.
    """

    skipped: tuple[str, ...]
    repeated: tuple[str, ...]


@dataclass(frozen=True)
class _Difference:
    """Stretch between two places where text and transcription agree: `reference` words became `heard` words."""

    reference: list[str]
    deleted: list[str]
    heard_start: int
    heard: list[str]


def find_word_runs(
    reference: str, transcription: str, *, min_words: int = 1, min_letters: int = 4, language: str = "en"
) -> WordRuns:
    """Finds runs of words that were left out or said twice, from the alignment of a transcription to the text.

    A recognizer also deletes and inserts words when it mishears one. So a run counts as skipped only if the stretch
    of text around it lost that many letters as well, and as repeated only if what is heard in addition sounds like
    what is heard directly before or after it.

    Args:
        reference (`str`): The text that should have been spoken.
        transcription (`str`): What the recognizer heard.
        min_words (`int`, defaults to 1): Words that a run must have.
        min_letters (`int`, defaults to 4): Letters that a run must have: recognizers lose and find short words at
            will.
        language (`str`, defaults to `"en"`): Language of the numbers and abbreviations in both.

    Returns:
        [`WordRuns`]

    Raises:
        ValueError: The reference has no words.
    """
    text, heard = scoring_text(reference, language).split(), scoring_text(transcription, language).split()
    if not text:
        raise ValueError(f"Reference {reference!r} has no words: leave it out.")
    differences = _differences(text, heard)
    skipped = [
        " ".join(difference.deleted)
        for difference in differences
        if len(difference.deleted) >= min_words
        and len(difference.reference) - len(difference.heard) >= min_words
        and _letters(difference.deleted) >= min_letters
        and _letters(difference.reference) - _letters(difference.heard) >= min_letters
    ]
    surplus = {
        difference.heard_start + index
        for difference in differences
        if len(difference.heard) > len(difference.reference)
        for index in range(len(difference.heard))
    }
    return WordRuns(tuple(skipped), tuple(_repeats(heard, surplus, min_words, min_letters)))


def _differences(text: list[str], heard: list[str]) -> list[_Difference]:
    chunks = jiwer.process_words(" ".join(text), " ".join(heard)).alignments[0]
    differences = []
    for differs, group in groupby(chunks, key=lambda chunk: chunk.type != "equal"):
        if differs:
            stretch = list(group)
            deleted = [
                word
                for chunk in stretch
                if chunk.type == "delete"
                for word in text[chunk.ref_start_idx : chunk.ref_end_idx]
            ]
            start, end = stretch[0].hyp_start_idx, stretch[-1].hyp_end_idx
            reference = text[stretch[0].ref_start_idx : stretch[-1].ref_end_idx]
            differences.append(_Difference(reference, deleted, start, heard[start:end]))
    return differences


def _repeats(heard: list[str], surplus: set[int], min_words: int, min_letters: int) -> list[str]:
    """Runs of heard words that are directly followed by a copy, where the text has fewer words than were heard."""
    found: list[str] = []
    start = 0
    while start < len(heard):
        for size in range((len(heard) - start) // 2, min_words - 1, -1):
            first, second = heard[start : start + size], heard[start + size : start + 2 * size]
            extra = len(surplus.intersection(range(start, start + 2 * size)))
            if extra >= size and _letters(first) >= min_letters and _sound_alike(first, second):
                found.append(" ".join(first))
                start += 2 * size - 1
                break
        start += 1
    return found


def _sound_alike(first: list[str], second: list[str]) -> bool:
    return first == second or SequenceMatcher(None, " ".join(first), " ".join(second)).ratio() >= SAME_SOUND


def _letters(words: Sequence[str]) -> int:
    return sum(map(len, words))


def _rates(skips: list[bool], repeats: list[bool]) -> dict[str, float | int]:
    either = [skip or repeat for skip, repeat in zip(skips, repeats, strict=True)]
    return {
        "skip_rate": sum(skips) / len(skips),
        "repeat_rate": sum(repeats) / len(repeats),
        "skip_or_repeat_rate": sum(either) / len(either),
        "num_skips": sum(skips),
        "num_repeats": sum(repeats),
        "num_utterances": len(skips),
    }


class RecognizerSkipRepeat(evaluate.Metric):
    """Share of utterances with at least one skipped or repeated run of words, by a recognizer's transcription.

    Example:

    ```python
    >>> from smalle_hf.metrics import RecognizerSkipRepeat

    >>> heard = ["the quick fox", "the quick brown brown fox"]
    >>> result = RecognizerSkipRepeat().compute(predictions=heard, references=["The quick brown fox."] * 2)
    >>> result["skip_rate"], result["repeat_rate"], result["skipped"][0]
    (0.5, 0.5, ['brown'])
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Utterances with a skipped or repeated run of words, from a transcription.",
            citation="",
            inputs_description="predictions: transcriptions; references: the texts that should have been spoken.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        min_words: int = 1,
        min_letters: int = 4,
        language: str = "en",
    ) -> dict[str, Any]:
        """Counts utterances. Takes the options of [`find_word_runs`] and raises its errors.

        Returns:
            `dict`: `skip_rate`, `repeat_rate`, `skip_or_repeat_rate` (0 to 1), `num_skips`, `num_repeats`,
            `num_utterances`; `skipped` and `repeated`: the runs of each utterance.
        """
        runs = [
            find_word_runs(reference, heard, min_words=min_words, min_letters=min_letters, language=language)
            for reference, heard in zip(references, predictions, strict=True)
        ]
        return {
            **_rates([bool(run.skipped) for run in runs], [bool(run.repeated) for run in runs]),
            "skipped": [list(run.skipped) for run in runs],
            "repeated": [list(run.repeated) for run in runs],
        }


class AlignmentSkipRepeat(evaluate.Metric):
    """Share of utterances with at least one skipped or repeated word, by the PACA alignment of the model.

    Each example is one utterance without padding: `alignments` (T, S) and `token_to_word` (S,), the word of each
    text token, -1 for tokens of no word. Words that the alignment does not reach at the end are skipped too; they
    are also counted by themselves, as `unfinished_rate`.
    """

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description="Utterances with a skipped or repeated word, from the model's alignment.",
            citation="",
            inputs_description="alignments: (T, S) per utterance; token_to_word: (S,) per utterance, -1 for none.",
            features=datasets.Features(
                {"alignments": datasets.Sequence(row), "token_to_word": datasets.Sequence(datasets.Value("int64"))}
            ),
        )

    def _compute(
        self, alignments: list[list[list[float]]], token_to_word: list[list[int]], min_run: int = 2
    ) -> dict[str, Any]:
        """Counts utterances.

        Args:
            alignments (`list` of `(T, S)`): Attention over the text tokens at each frame.
            token_to_word (`list` of `(S,)`): Word of each token; -1 for none.
            min_run (`int`, defaults to 2): Tokens by which the path must fall back for a repeat.

        Returns:
            `dict`: `skip_rate`, `repeat_rate`, `skip_or_repeat_rate`, `unfinished_rate` (0 to 1), `num_skips`,
            `num_repeats`, `num_utterances`; `skipped` and `repeated`: the word numbers of each utterance.
        """
        skipped, repeated, unfinished = [], [], []
        for weights, words in zip(alignments, token_to_word, strict=True):
            mapping = torch.tensor(words)
            report = analyze_alignment(torch.tensor(weights)[None], required_tokens=mapping >= 0, min_run=min_run)
            skipped.append(_word_numbers(report.skipped | report.unfinished, mapping))
            repeated.append(_word_numbers(report.repeated, mapping))
            unfinished.append(bool(_word_numbers(report.unfinished, mapping)))
        return {
            **_rates([bool(words) for words in skipped], [bool(words) for words in repeated]),
            "unfinished_rate": sum(unfinished) / len(unfinished),
            "skipped": skipped,
            "repeated": repeated,
        }


def _word_numbers(tokens: torch.Tensor, token_to_word: torch.Tensor) -> list[int]:
    return words_with(tokens, token_to_word)[0].nonzero().flatten().tolist()


__all__ = ["AlignmentSkipRepeat", "RecognizerSkipRepeat", "WordRuns", "find_word_runs"]
