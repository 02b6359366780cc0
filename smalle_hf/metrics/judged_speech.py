"""Metrics for which a model listens: speaker similarity and predicted mean opinion score; and the real-time factor."""

from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np
from tqdm import tqdm

from .mos_models import create_mos_model
from .speaker_models import create_speaker_model


def _waveform() -> datasets.Sequence:
    return datasets.Sequence(datasets.Value("float32"))


def _progress(steps: Iterable[Any], total: int | None = None) -> tqdm:
    return tqdm(steps, desc="listening", total=total, disable=None)


class SpeakerSimilarity(evaluate.Metric):
    """Cosine similarity of the speaker embeddings of generated speech and of a reference of the speaker.

    What a value means depends on the model, so compare with the similarity of two recordings of one speaker. Audio
    in which no voice is found has similarity 0 to everything.

    Args:
        speaker_model (`str`, defaults to `"resemblyzer"`): `"resemblyzer"`, `"wavlm"` or `"wavlm:CHECKPOINT"`.
        device (`str`, defaults to `"cpu"`): Where it runs.
        kwargs: Arguments of `evaluate.Metric`.

    Raises:
        ImportError, RuntimeError, ValueError: The model is unknown, not installed, or not to be had.
    """

    def __init__(self, speaker_model: str = "resemblyzer", device: str = "cpu", **kwargs: Any) -> None:
        self.speaker_model = create_speaker_model(speaker_model, device=device)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Cosine similarity of the speaker embeddings of two waveforms.",
            citation="",
            inputs_description="predictions, references: mono waveforms, full scale 1.0.",
            features=datasets.Features({"predictions": _waveform(), "references": _waveform()}),
        )

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[list[float]],
        sampling_rate: int,
        reference_sampling_rate: int | None = None,
    ) -> dict[str, Any]:
        """Embeds both and compares.

        Args:
            predictions (`list` of `(samples,)`): Generated speech.
            references (`list` of `(samples,)`): Speech of the speaker that it should sound like.
            sampling_rate (`int`): Rate of the generated speech in Hz.
            reference_sampling_rate (`int`, *optional*): Rate of the references in Hz; the same when `None`.

        Returns:
            `dict`: `speaker_similarity_mean`; `speaker_similarity` as a list with one entry per utterance, -1 to 1.

        Raises:
            ValueError: A waveform is not mono or not finite.
        """
        similarities = [
            float(
                self.speaker_model(np.asarray(prediction, dtype=np.float32), sampling_rate)
                @ self.speaker_model(np.asarray(reference, dtype=np.float32), reference_sampling_rate or sampling_rate)
            )
            for prediction, reference in _progress(zip(predictions, references, strict=True), len(predictions))
        ]
        return {
            "speaker_similarity_mean": sum(similarities) / len(similarities),
            "speaker_similarity": similarities,
        }


class MeanOpinionScore(evaluate.Metric):
    """Predicted mean opinion score, 1 (bad) to 5 (excellent).

    Args:
        mos_model (`str`, defaults to `"speechmos"`): `"speechmos"` (DNSMOS) or `"utmos"`.
        device (`str`, defaults to `"cpu"`): Where it runs.
        kwargs: Arguments of `evaluate.Metric`.

    Raises:
        ImportError, RuntimeError, ValueError: The model is unknown, not installed, or not to be had.
    """

    def __init__(self, mos_model: str = "speechmos", device: str = "cpu", **kwargs: Any) -> None:
        self.mos_model = create_mos_model(mos_model, device=device)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Predicted mean opinion score.",
            citation="",
            inputs_description="predictions: mono waveforms, full scale 1.0.",
            features=datasets.Features({"predictions": _waveform()}),
        )

    def _compute(self, predictions: list[list[float]], sampling_rate: int) -> dict[str, Any]:
        """Rates each utterance.

        Args:
            predictions (`list` of `(samples,)`): Speech.
            sampling_rate (`int`): Its rate in Hz.

        Returns:
            `dict`: `mos_mean`, and the mean of each part that the model has; `mos` and the parts as lists with one
            entry per utterance.

        Raises:
            ValueError: A waveform is not mono or not finite.
        """
        scores = [
            self.mos_model(np.asarray(speech, dtype=np.float32), sampling_rate) for speech in _progress(predictions)
        ]
        columns = {name: [score[name] for score in scores] for name in scores[0]}
        return {**{f"{name}_mean": sum(values) / len(values) for name, values in columns.items()}, **columns}


class RealTimeFactor(evaluate.Metric):
    """Seconds of computation per second of speech: below 1 is faster than real time.

    Each example is one utterance or one batch: `generation_seconds` and `audio_seconds`.
    """

    def _info(self) -> evaluate.MetricInfo:
        seconds = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="Real-time factor.",
            citation="",
            inputs_description="generation_seconds: time it took; audio_seconds: length of the speech.",
            features=datasets.Features({"generation_seconds": seconds, "audio_seconds": seconds}),
        )

    def _compute(self, generation_seconds: list[float], audio_seconds: list[float]) -> dict[str, Any]:
        """Divides the sums.

        Args:
            generation_seconds (`list[float]`): Time it took, in seconds.
            audio_seconds (`list[float]`): Length of the speech, in seconds.

        Returns:
            `dict`: `real_time_factor` (infinite if no audio came out), `generation_seconds` and `audio_seconds` in
            total.
        """
        generation, audio = sum(generation_seconds), sum(audio_seconds)
        return {
            "real_time_factor": generation / audio if audio else float("inf"),
            "generation_seconds": generation,
            "audio_seconds": audio,
        }


__all__ = ["MeanOpinionScore", "RealTimeFactor", "SpeakerSimilarity"]
