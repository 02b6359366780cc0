"""Predictors of the mean opinion score (MOS, 1 bad to 5 excellent): DNSMOS offline, UTMOS online."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from .registry import SAMPLING_RATE, create_judge, downloading, listen


class MosModel(Protocol):
    """Predicts how listeners would rate speech."""

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> dict[str, float]:
        """Rates mono speech `(samples,)` at `sampling_rate` Hz: `"mos"`, and parts of it where the model has some."""


class SpeechMosModel:
    """DNSMOS P.835 and P.808, whose ONNX models are part of the `speechmos` package: no network.

    It was trained on noisy and denoised calls: it hears noise, codec artefacts and distortion, not wrong words or
    prosody. Scores: `mos` (overall), `mos_signal`, `mos_background` (P.835) and `mos_p808`. Empty audio is rated as
    silence.

    Raises:
        ImportError: speechmos or onnxruntime is not installed.
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise ImportError(
                f"The MOS model speechmos cannot be imported ({error}): pip install speechmos onnxruntime librosa."
            ) from error
        models = Path(dnsmos.__file__).parent / "dnsmos_models"
        # `dnsmos.run` keeps its model in a global variable: an instance of our own does not.
        self.model = dnsmos.DNSMOS(str(models / "sig_bak_ovr.onnx"), str(models / "model_v8.onnx"))

    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> dict[str, float]:
        """Rates one utterance; see [`MosModel`]."""
        speech = listen(waveform, sampling_rate)
        # It doubles short audio until it fills a window, for ever if there is none.
        speech = speech if len(speech) else np.zeros(SAMPLING_RATE, dtype=np.float32)
        scores = self.model(speech, SAMPLING_RATE, False)
        names = {"mos": "ovrl_mos", "mos_signal": "sig_mos", "mos_background": "bak_mos", "mos_p808": "p808_mos"}
        return {name: float(scores[key]) for name, key in names.items()}


class UtmosModel:
    """UTMOS22 strong learner from torch.hub: downloads code and weights once; needs torchaudio, which fits torch.

    Args:
        repository (`str`, defaults to `"tarepan/SpeechMOS:v1.2.0"`): GitHub repository and tag for `torch.hub`.
        device (`str`, defaults to `"cpu"`): Where it runs.

    Raises:
        RuntimeError: It cannot be downloaded, or torchaudio is missing.
    """

    def __init__(self, repository: str = "tarepan/SpeechMOS:v1.2.0", device: str = "cpu") -> None:
        with downloading(f"UTMOS from torch.hub {repository!r}", "--mos-model speechmos"):
            self.model = torch.hub.load(repository, "utmos22_strong", trust_repo=True).to(device).eval()
        self.device = device

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray, sampling_rate: int) -> dict[str, float]:
        """Rates one utterance; see [`MosModel`]."""
        speech = listen(waveform, sampling_rate)
        speech = speech if len(speech) else np.zeros(SAMPLING_RATE, dtype=np.float32)
        return {"mos": float(self.model(torch.from_numpy(speech)[None].to(self.device), SAMPLING_RATE))}


MOS_MODELS: dict[str, Callable[..., MosModel]] = {"speechmos": SpeechMosModel, "utmos": UtmosModel}
"""MOS models by name; `"utmos:OWNER/REPOSITORY:TAG"` names another torch.hub repository."""


def create_mos_model(name: str = "speechmos", *, device: str = "cpu") -> MosModel:
    """Builds a MOS model by name: `"speechmos"` or `"utmos"`.

    Raises:
        ImportError, RuntimeError, ValueError: The model is unknown, not installed, or not to be had.
    """
    return create_judge("MOS model", MOS_MODELS, name, device=device)


__all__ = ["MOS_MODELS", "MosModel", "SpeechMosModel", "UtmosModel", "create_mos_model"]
