"""What a run remembers from step to step besides weights: the content of a checkpoint's `state.json`."""

import signal
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator

from ..configuration_smalle import SmallEConfig
from .arguments import ArgumentsError
from .meter import Sums


@dataclass
class RunState:
    """Progress of a run.

    Args:
        step (`int`): Optimizer steps that are done.
        seconds (`float`): Time that they took, over all resumed parts.
        window ([`Sums`], *optional*): What was measured since the last log line.
        training (`dict`): Numbers of the last log line.
        validation (`dict`): Numbers of the last validation, and its `step`.
        best (`dict`): The same of the validation with the lowest loss.
    """

    step: int = 0
    seconds: float = 0.0
    window: Sums | None = None
    training: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)

    def take(self, sums: Sums, seconds: float) -> None:
        """Counts a step."""
        sums = replace(sums, seconds=seconds)
        self.step += 1
        self.seconds += seconds
        self.window = sums if self.window is None else self.window + sums

    def close_window(self, config: SmallEConfig, peak: float | None) -> dict[str, float]:
        """Numbers of the steps since the last log line; for the arguments see [`Sums.utilization`]."""
        assert self.window is not None
        values = self.window.losses() | self.window.speeds() | self.window.utilization(config, peak)
        self.window = None
        return values

    def take_validation(self, values: Mapping[str, float]) -> bool:
        """Keeps the numbers of a validation and tells whether its loss is the lowest so far."""
        self.validation = {"step": self.step, **values}
        is_best = not self.best or values["loss"] < self.best["loss"]
        if is_best:
            self.best = self.validation
        return is_best

    @property
    def best_step(self) -> int | None:
        """Step of the best validation."""
        return int(self.best["step"]) if self.best else None

    def to_json(self, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        """Everything as JSON values, which keep floats exactly."""
        return {**asdict(self), "fingerprint": dict(fingerprint)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> "RunState":
        """Reads [`to_json`].

        Raises:
            ArgumentsError: The run had other data, batches or model sizes, so that it cannot be continued.
        """
        values = dict(values)
        stored = values.pop("fingerprint")
        if changed := [name for name, value in fingerprint.items() if stored.get(name) != value]:
            raise ArgumentsError(
                f"The checkpoint of step {values['step']} belongs to a run with other {', '.join(changed)}: restore "
                "them, or choose another --output_dir."
            )
        window = values.pop("window")
        return cls(**values, window=None if window is None else Sums(**window))


class Interruption:
    """Notes SIGINT and SIGTERM, so that a run can end with a checkpoint. A second signal ends it at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.signal = number
        self.close()

    def close(self) -> None:
        """Puts the former handlers back."""
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal that any process has got, or 0. All processes must call it."""
        if accelerator.num_processes == 1:
            return self.signal
        signals = accelerator.gather(torch.tensor([self.signal], device=accelerator.device))
        return int(signals.max())


__all__ = ["Interruption", "RunState"]
