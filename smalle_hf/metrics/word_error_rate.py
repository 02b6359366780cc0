"""Word and character error rates of transcriptions."""

from typing import Any

import datasets
import evaluate
import jiwer

from .text import scoring_text


class WordErrorRate(evaluate.Metric):
    """WER and CER, each as the mean over utterances and as the corpus value, on equally normalized texts.

    The corpus value (all errors by all reference words) is the usual one in recognition; the mean over utterances
    weighs short sentences more and is the usual one in speech synthesis. Both are named, so that no one compares one
    with the other. A rate may exceed 1.

    Example:

    ```python
    >>> from smalle_hf.metrics import WordErrorRate

    >>> result = WordErrorRate().compute(predictions=["the cat sat"], references=["The cat sat down."])
    >>> result["wer_corpus"]
    0.25
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Word and character error rate, mean over utterances and corpus value.",
            citation="",
            inputs_description="predictions: transcriptions; references: the texts that should have been spoken.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str], language: str = "en") -> dict[str, Any]:
        """Counts the errors.

        Args:
            predictions (`list[str]`): Transcriptions.
            references (`list[str]`): The texts that should have been spoken.
            language (`str`, defaults to `"en"`): Language of the numbers and abbreviations in both.

        Returns:
            `dict`: `wer_mean`, `wer_corpus`, `cer_mean`, `cer_corpus`; `hits`, `substitutions`, `deletions`,
            `insertions` in words; `wer` and `cer` as lists with one entry per utterance.

        Raises:
            ValueError: A reference has no words.
        """
        spoken = [scoring_text(text, language) for text in references]
        heard = [scoring_text(text, language) for text in predictions]
        if missing := [text for text, words in zip(references, spoken, strict=True) if not words]:
            raise ValueError(f"Reference {missing[0]!r} has no words, so its error rate is undefined: leave it out.")
        corpus = jiwer.process_words(spoken, heard)
        wer = [jiwer.wer(reference, prediction) for reference, prediction in zip(spoken, heard, strict=True)]
        cer = [jiwer.cer(reference, prediction) for reference, prediction in zip(spoken, heard, strict=True)]
        return {
            "wer_mean": sum(wer) / len(wer),
            "wer_corpus": corpus.wer,
            "cer_mean": sum(cer) / len(cer),
            "cer_corpus": jiwer.cer(spoken, heard),
            "hits": corpus.hits,
            "substitutions": corpus.substitutions,
            "deletions": corpus.deletions,
            "insertions": corpus.insertions,
            "wer": wer,
            "cer": cer,
        }


__all__ = ["WordErrorRate"]
