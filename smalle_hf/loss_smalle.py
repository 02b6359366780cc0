"""What training minimises."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def compute_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    codebook_weights: Sequence[float] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over all codebooks and columns (paper section 3.1), start and stop ids included.

    Args:
        logits (`torch.Tensor` of shape `(B, T, Q, V)`): Scores.
        labels (`torch.LongTensor` of shape `(B, T, Q)`): Ids; -100 is ignored.
        num_items_in_batch (`int`, *optional*): Divisor of the sum; the number of labels that count if `None`.
        codebook_weights (`Sequence[float]` of length Q, *optional*): Weight of each codebook in the loss, of which
            only the ratios count; all the same if `None`.

    Returns:
        The loss and the mean loss of each codebook without its weight, `(Q,)`, both in nats and float32.
    """
    nats = F.cross_entropy(logits.flatten(0, 2).float(), labels.flatten(), ignore_index=-100, reduction="none")
    nats_per_codebook = nats.view_as(labels).sum(dim=(0, 1))
    counts = (labels != -100).sum(dim=(0, 1))
    divisor = counts.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    weighted = nats_per_codebook
    if codebook_weights is not None:
        weights = nats_per_codebook.new_tensor(codebook_weights)
        weighted = nats_per_codebook * weights / weights.mean()
    return weighted.sum() / divisor, nats_per_codebook.detach() / counts.clamp(min=1)


__all__ = ["compute_loss"]
