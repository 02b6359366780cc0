"""What a step or a validation measured: sums over batches and processes, from which all logged numbers follow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from ..configuration_smalle import SmallEConfig
from ..data.collator import IGNORED_LABEL
from .flops import training_flops

Batch = dict[str, Any]


def count_labels(batches: Sequence[Batch]) -> torch.Tensor:
    """Labels that count towards the loss, of shape `()`."""
    return sum((batch["labels"] != IGNORED_LABEL).sum() for batch in batches)


def batch_sums(batch: Batch, codebook_losses: torch.Tensor) -> torch.Tensor:
    """Sums of one batch that add up over batches and processes; stays on the device.

    Args:
        batch (`dict`): From the collator.
        codebook_losses (`torch.Tensor` of shape `(Q,)`): Mean loss of each codebook in nats.

    Returns:
        `torch.Tensor` of shape `(2 * Q + 5,)`, float64: nats and labels of each codebook; columns without and with
        padding; text tokens; pairs of text tokens, and of column and token, of the same utterance.
    """
    counts = (batch["labels"] != IGNORED_LABEL).sum(dim=(0, 1)).double()
    mask, text_mask = batch["decoder_attention_mask"], batch["attention_mask"]
    # No row has more utterances than text tokens, and one place is for padding.
    num_columns = lengths_of_utterances(mask, batch.get("decoder_segment_ids"), text_mask.shape[1] + 1)
    num_tokens = lengths_of_utterances(text_mask, batch.get("segment_ids"), text_mask.shape[1] + 1)
    others = [
        num_columns.sum(),
        torch.as_tensor(mask.numel(), device=mask.device),
        num_tokens.sum(),
        num_tokens.square().sum(),
        (num_columns * num_tokens).sum(),
    ]
    return torch.cat([codebook_losses.double() * counts, counts, torch.stack(others).double()])


def lengths_of_utterances(mask: torch.Tensor, segment_ids: torch.Tensor | None, most: int) -> torch.Tensor:
    """What `mask` keeps of every utterance of a row, `(B, most)`, without waiting for the device.

    Args:
        mask (`torch.Tensor` of shape `(B, L)`): 1 for elements, 0 for padding.
        segment_ids (`torch.Tensor` of shape `(B, L)`, *optional*): Number of the utterance, below `most`.
        most (`int`): Utterances that a row may have.
    """
    segment_ids = torch.zeros_like(mask) if segment_ids is None else segment_ids
    return mask.new_zeros(len(mask), most).scatter_add_(1, segment_ids.long(), mask)


@dataclass(frozen=True)
class Sums:
    """Sums over batches, steps and processes.

    Args:
        nats (`list[float]` of length Q): Summed loss of each codebook.
        labels (`list[float]` of length Q): Labels of each codebook.
        columns (`float`): Columns without padding: frames and the delay pattern's margin.
        cells (`float`): Columns with padding.
        text_tokens (`float`): Text tokens without padding.
        text_pairs (`float`): Pairs of text tokens of the same utterance.
        cross_pairs (`float`): Pairs of column and text token of the same utterance.
        grad_norm (`float`): Summed gradient norms.
        steps (`int`): Steps.
        seconds (`float`): Time that they took.
    """

    nats: list[float]
    labels: list[float]
    columns: float = 0.0
    cells: float = 0.0
    text_tokens: float = 0.0
    text_pairs: float = 0.0
    cross_pairs: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float], grad_norm: float = 0.0) -> "Sums":
        """Reads what [`batch_sums`] wrote."""
        codebooks = (len(values) - 5) // 2
        nats, labels = list(values[:codebooks]), list(values[codebooks : 2 * codebooks])
        columns, cells, text_tokens, text_pairs, cross_pairs = values[2 * codebooks :]
        return cls(nats, labels, columns, cells, text_tokens, text_pairs, cross_pairs, grad_norm, steps=1)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            [a + b for a, b in zip(self.nats, other.nats, strict=True)],
            [a + b for a, b in zip(self.labels, other.labels, strict=True)],
            self.columns + other.columns,
            self.cells + other.cells,
            self.text_tokens + other.text_tokens,
            self.text_pairs + other.text_pairs,
            self.cross_pairs + other.cross_pairs,
            self.grad_norm + other.grad_norm,
            self.steps + other.steps,
            self.seconds + other.seconds,
        )

    @property
    def loss(self) -> float:
        """Mean loss in nats over all labels."""
        return sum(self.nats) / max(sum(self.labels), 1.0)

    def losses(self) -> dict[str, float]:
        """Loss and perplexity, in total and by codebook."""
        named = {"": self.loss}
        for codebook, (nats, labels) in enumerate(zip(self.nats, self.labels, strict=True)):
            named[f"_codebook_{codebook}"] = nats / max(labels, 1.0)
        values = {f"loss{name}": loss for name, loss in named.items()}
        return values | {f"perplexity{name}": perplexity(loss) for name, loss in named.items()}

    def speeds(self) -> dict[str, float]:
        """Throughput of all processes together, share of padding, and mean gradient norm."""
        seconds = max(self.seconds, 1e-9)
        return {
            "frames_per_second": self.columns / seconds,
            "tokens_per_second": sum(self.labels) / seconds,
            "text_tokens_per_second": self.text_tokens / seconds,
            "steps_per_second": self.steps / seconds,
            "padding": 1.0 - self.columns / max(self.cells, 1.0),
            "grad_norm": self.grad_norm / max(self.steps, 1),
        }

    def utilization(self, config: SmallEConfig, peak: float | None) -> dict[str, float]:
        """Model FLOP utilisation: operations that training takes, as [`training_flops`] counts them, over those that
        all devices together could have done.

        Args:
            config ([`SmallEConfig`]): Of the model that was trained.
            peak (`float`, *optional*): Operations per second of all devices; without it there is no `mfu`.
        """
        if peak is None:
            return {}
        flops = training_flops(config, self.columns, self.text_tokens, self.text_pairs, self.cross_pairs)
        return {"mfu": flops / (max(self.seconds, 1e-9) * peak)}


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.inf if loss > 700 else math.exp(loss)


def reduce_sums(accelerator: Accelerator, sums: torch.Tensor, grad_norm: torch.Tensor | float) -> Sums:
    """Adds up over processes and waits for the device: the only time that a step does."""
    reduced = accelerator.reduce(sums, reduction="sum")
    if isinstance(grad_norm, DTensor):  # FSDP
        grad_norm = grad_norm.full_tensor()
    norm = torch.as_tensor(grad_norm, device=reduced.device, dtype=reduced.dtype)
    *values, norm_value = torch.cat([reduced, norm.reshape(1)]).tolist()
    return Sums.of(values, norm_value)


def gpu_memory() -> Mapping[str, float]:
    """Most memory that was allocated on this process's GPU, in GiB; empty without one."""
    if not torch.cuda.is_available():
        return {}
    return {"gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30}


__all__ = ["Batch", "Sums", "batch_sums", "count_labels", "gpu_memory", "perplexity", "reduce_sums"]
