"""AdamW, learning rate schedule, weight averaging and randomness, all as functions of the step."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import set_seed

from .arguments import TrainingArguments


def build_optimizer(model: nn.Module, arguments: TrainingArguments) -> torch.optim.AdamW:
    """AdamW over the weights that are trained; weight decay applies to matrices, not to biases and norms."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": arguments.weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        fused=all(weight.device.type in ("cpu", "cuda") for weight in trained),
    )


def learning_rate_at(step: int, total_steps: int, arguments: TrainingArguments) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, then a cosine down to `min_learning_rate`."""
    warmup = min(arguments.warmup_steps, total_steps)
    if step < warmup:
        return arguments.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(total_steps - warmup, 1)
    span = arguments.learning_rate - arguments.min_learning_rate
    return arguments.min_learning_rate + span * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def seed_step(seed: int, step: int, process_index: int) -> None:
    """Seeds all generators (Python, NumPy, torch) for a step.

    What a step draws depends on these numbers alone, so a resumed run draws what the uninterrupted one would have, and
    validation or samples in between change nothing.
    """
    set_seed(int(np.random.SeedSequence([seed, step, process_index]).generate_state(1)[0]))


class WeightAverage:
    """Exponential moving average of the trained weights.

    Args:
        model (`nn.Module`): Prepared model; its present weights are where the average begins.
        decay (`float`): Share of the old average that an update keeps, once there were enough updates: it warms up as
            (1 + n) / (10 + n), so that random initial weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._averages = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after step 0, 1, ..."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, None)

    @torch.no_grad()
    def restart(self) -> None:
        """Sets the average to the present weights."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.copy_(weight)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the average in the place of the weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self._averages, self._weights, strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)


__all__ = ["WeightAverage", "build_optimizer", "learning_rate_at", "seed_step"]
