"""Speaker models for speaker similarity: Resemblyzer offline, WavLM-SV online."""

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from .registry import SAMPLING_RATE, create_judge, downloading, listen


class SpeakerModel(Protocol):
    """Turns speech into a vector that depends on who speaks."""

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embeds mono speech `(samples,)` at `sampling_rate` Hz: a unit vector `(D,)`, or zeros where nobody
        speaks."""


class ResemblyzerSpeakerModel:
    """GE2E speaker encoder whose weights are part of the `Resemblyzer` package: no network.

    The cosine of two of its vectors is about 0.85 for one speaker and 0.6 for two, never below 0.

    Raises:
        ImportError: Resemblyzer is not installed, or cannot be imported.
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            with warnings.catch_warnings():
                # webrtcvad imports pkg_resources and audio.py a deprecated name of SciPy: both warn on every import.
                warnings.simplefilter("ignore")
                from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError as error:
            raise ImportError(
                f"The speaker model Resemblyzer cannot be imported ({error}): pip install Resemblyzer 'setuptools<82'."
            ) from error
        self.encoder = VoiceEncoder(device, verbose=False)
        self.preprocess = preprocess_wav

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embeds one utterance; see [`SpeakerModel`]."""
        silence = np.zeros(self.encoder.linear.out_features, dtype=np.float32)
        speech = listen(waveform, sampling_rate)
        # Its volume normalization divides by the loudness, and its windows by their number.
        if not np.any(speech):
            return silence
        voiced = self.preprocess(speech, source_sr=SAMPLING_RATE)
        return self.encoder.embed_utterance(voiced) if len(voiced) else silence


class WavLMSpeakerModel:
    """WavLM x-vector model (or any x-vector model of Transformers): downloaded once from the Hub, or read from a
    folder.

    Args:
        checkpoint (`str`, defaults to `"microsoft/wavlm-base-plus-sv"`): Hub id or folder.
        device (`str`, defaults to `"cpu"`): Where it runs.

    Raises:
        RuntimeError: The checkpoint is neither local nor can it be downloaded.
    """

    def __init__(self, checkpoint: str = "microsoft/wavlm-base-plus-sv", device: str = "cpu") -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        with downloading(f"the speaker model {checkpoint!r}", "--speaker-model resemblyzer"):
            self.features = AutoFeatureExtractor.from_pretrained(checkpoint)
            self.model = AutoModelForAudioXVector.from_pretrained(checkpoint).to(device).eval()

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embeds one utterance; see [`SpeakerModel`]."""
        speech = listen(waveform, sampling_rate)
        if not np.any(speech):
            return np.zeros(self.model.config.xvector_output_dim, dtype=np.float32)
        # Its convolutions need about a second; shorter speech is repeated, which keeps the voice.
        speech = np.resize(speech, max(len(speech), SAMPLING_RATE))
        inputs = self.features(speech, sampling_rate=SAMPLING_RATE, return_tensors="pt").to(self.model.device)
        return torch.nn.functional.normalize(self.model(**inputs).embeddings[0], dim=0).cpu().numpy()


SPEAKER_MODELS: dict[str, Callable[..., SpeakerModel]] = {
    "resemblyzer": ResemblyzerSpeakerModel,
    "wavlm": WavLMSpeakerModel,
}
"""Speaker models by name; `"wavlm:DIR"` names a checkpoint."""


def create_speaker_model(name: str = "resemblyzer", *, device: str = "cpu") -> SpeakerModel:
    """Builds a speaker model by name: `"resemblyzer"`, `"wavlm"` or `"wavlm:CHECKPOINT"`.

    Raises:
        ImportError, RuntimeError, ValueError: The model is unknown, not installed, or not to be had.
    """
    return create_judge("speaker model", SPEAKER_MODELS, name, device=device)


__all__ = [
    "SPEAKER_MODELS",
    "ResemblyzerSpeakerModel",
    "SpeakerModel",
    "WavLMSpeakerModel",
    "create_speaker_model",
]
