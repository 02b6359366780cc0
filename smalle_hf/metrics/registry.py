"""How a judge (recognizer, speaker model, MOS model) is chosen: by a name, with what to load behind a colon."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import soxr

Judge = TypeVar("Judge")

SAMPLING_RATE = 16000
"""Rate in Hz at which all judges here listen."""


def create_judge(kind: str, factories: Mapping[str, Callable[..., Judge]], name: str, **options: Any) -> Judge:
    """Builds the judge of a name such as `"whisper"` or `"whisper:openai/whisper-small.en"`.

    Args:
        kind (`str`): What the message calls it.
        factories (`Mapping[str, Callable]`): Constructors by name; the part behind the colon is their first argument.
        name (`str`): A key of `factories`, optionally with a colon and a checkpoint (Hub id or folder) or a mode.
        options: Keyword arguments of the constructor.

    Raises:
        ValueError: There is no such name.
    """
    key, _, variant = name.partition(":")
    if key not in factories:
        raise ValueError(f"Unknown {kind} {name!r}: choose one of {', '.join(sorted(factories))}.")
    return factories[key](*([variant] if variant else []), **options)


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turns a failed download into one line.

    Raises:
        RuntimeError: The block raised an `OSError`, which is what download and connection errors are.
    """
    try:
        yield
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeError(
            f"Could not load {what} ({reason}): it needs the network once; offline, use {instead}."
        ) from error


def listen(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Brings speech to the rate of the judges.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono speech, full scale 1.0.
        sampling_rate (`int`): Its rate in Hz.

    Returns:
        `np.ndarray` of shape `(samples,)`: float32 at 16 kHz, clipped to full scale.

    Raises:
        ValueError: The audio is not mono, or holds NaN or infinity.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"Speech must be mono of shape (samples,), got {waveform.shape}: average its channels first.")
    if not np.isfinite(waveform).all():
        raise ValueError("Speech must be finite: it holds NaN or infinity.")
    if sampling_rate != SAMPLING_RATE and len(waveform):
        waveform = soxr.resample(waveform, sampling_rate, SAMPLING_RATE)
    return np.clip(waveform, -1.0, 1.0)


__all__ = ["SAMPLING_RATE", "create_judge", "downloading", "listen"]
