"""Scores of an evaluation: numbers over all sentences and numbers of each sentence, from the metrics of
`smalle_hf`."""

import math
from collections.abc import Sequence
from typing import Any

from evaluation_speech import LISTENING_RATE, Utterance, listen, progress

from smalle_hf.alignment import analyze_alignment, token_times, word_times
from smalle_hf.audio_files import read_audio
from smalle_hf.metrics import (
    AlignmentSkipRepeat,
    MeanOpinionScore,
    RecognizerSkipRepeat,
    SpeakerSimilarity,
    SpeechRecognizer,
    WordErrorRate,
)


class Scores:
    """Collects results.

    Args:
        utterances (`Sequence[Utterance]`): The speech that is judged.

    Attributes:
        summary (`dict[str, Any]`): Numbers over all sentences; those of the original recordings begin with
            `reference_`.
        rows (`list[dict[str, Any]]`): Numbers of each sentence; a value is absent where it does not apply.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances
        self.with_reference = [index for index, utterance in enumerate(utterances) if utterance.reference is not None]
        self.summary: dict[str, Any] = {
            "num_sentences": len(utterances),
            "num_without_audio": sum(not len(utterance.speech) for utterance in utterances),
            "num_never_ended": sum(utterance.ended is False for utterance in utterances),
            "audio_seconds": sum(len(utterance.speech) for utterance in utterances) / LISTENING_RATE,
        }
        if all(utterance.ended is None for utterance in utterances):
            del self.summary["num_never_ended"]
        self.rows: list[dict[str, Any]] = [
            {
                "id": utterance.sentence.id,
                "text": utterance.sentence.text,
                "seconds": len(utterance.speech) / LISTENING_RATE,
                "ended": utterance.ended,
                **{f"{name}_file": path for name, path in utterance.files.items()},
            }
            for utterance in utterances
        ]

    def add(self, result: dict[str, Any], rows: Sequence[int], prefix: str = "") -> None:
        """Adds the result of a metric: its numbers to the summary, its lists to the sentences numbered `rows`.

        Lists of another length, such as perplexities by codebook, belong to the summary too.
        """
        for name, value in result.items():
            if not isinstance(value, list) or len(value) != len(rows):
                self.summary[prefix + name] = value
                continue
            for index, entry in zip(rows, value, strict=True):
                self.rows[index][prefix + name] = entry

    def add_words(self, recognizer: SpeechRecognizer, language: str) -> None:
        """Error rates, and skipped and repeated words, of the speech and of the original recordings."""
        everything = range(len(self.rows))
        speech = [utterance.speech for utterance in self.utterances]
        heard = [recognizer(samples, LISTENING_RATE) for samples in progress(speech, "recognizing")]
        self._add_words(heard, everything, language)
        if not self.with_reference:
            return
        originals = [samples for utterance in self.utterances if (samples := utterance.reference) is not None]
        heard_originals = [
            recognizer(samples, LISTENING_RATE) for samples in progress(originals, "recognizing originals")
        ]
        self._add_words(heard_originals, self.with_reference, language, "reference_")
        comparable = WordErrorRate(keep_in_memory=True).compute(
            predictions=[heard[index] for index in self.with_reference],
            references=[self.rows[index]["text"] for index in self.with_reference],
            language=language,
        )
        for name in ("wer_mean", "wer_corpus"):
            self.summary[f"{name}_above_reference"] = comparable[name] - self.summary[f"reference_{name}"]

    def _add_words(self, heard: list[str], rows: Sequence[int], language: str, prefix: str = "") -> None:
        texts = [self.rows[index]["text"] for index in rows]
        self.add({"heard": heard}, rows, prefix)
        for metric in (WordErrorRate(keep_in_memory=True), RecognizerSkipRepeat(keep_in_memory=True)):
            self.add(metric.compute(predictions=heard, references=texts, language=language), rows, prefix)

    def add_alignments(self, frame_rate: float) -> None:
        """Skipped and repeated words by the model's alignment, its monotonicity, and when each word is spoken."""
        rows = [index for index, utterance in enumerate(self.utterances) if utterance.alignment.numel()]
        if not rows:
            return
        aligned = [self.utterances[index] for index in rows]
        result = AlignmentSkipRepeat(keep_in_memory=True).compute(
            alignments=[utterance.alignment.tolist() for utterance in aligned],
            token_to_word=[utterance.token_to_word.tolist() for utterance in aligned],
        )
        self.add(result, rows, "alignment_")
        for index, utterance in zip(rows, aligned, strict=True):
            tokens = utterance.token_to_word
            report = analyze_alignment(utterance.alignment[None], required_tokens=tokens >= 0)
            times = word_times(token_times(report.path, None, len(tokens), frame_rate), tokens)[0].tolist()
            self.rows[index]["words"] = utterance.words
            self.rows[index]["alignment_backward_tokens"] = report.backward_max.item()
            self.rows[index]["alignment_completeness"] = report.completeness.item()
            self.rows[index]["alignment_word_times"] = [None if math.isnan(span[0]) else span for span in times]

    def add_voices(self, metric: SpeakerSimilarity) -> None:
        """Similarity of the speech to the voice prompt, or else to the original recording."""
        rows = [index for index, utterance in enumerate(self.utterances) if utterance.sentence.speaker]
        if not rows:
            return
        voices = [listen(*read_audio(self.utterances[index].sentence.speaker)) for index in rows]
        speech = [self.utterances[index].speech for index in rows]
        self.add(metric.compute(predictions=speech, references=voices, sampling_rate=LISTENING_RATE), rows)

    def add_opinions(self, metric: MeanOpinionScore) -> None:
        """Predicted opinion of the speech and of the original recordings."""
        speech = [utterance.speech for utterance in self.utterances]
        self.add(metric.compute(predictions=speech, sampling_rate=LISTENING_RATE), range(len(speech)))
        if self.with_reference:
            originals = [self.utterances[index].reference for index in self.with_reference]
            result = metric.compute(predictions=originals, sampling_rate=LISTENING_RATE)
            self.add(result, self.with_reference, "reference_")


__all__ = ["Scores"]
