"""Perplexity of the codes, for each codebook and all together."""

import math
from typing import Any

import datasets
import evaluate
import torch
import torch.distributed as dist
from torch.nn import functional


def codebook_nats(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy sums of one batch, to be added to [`CodebookPerplexity`].

    Args:
        logits (`torch.Tensor` of shape `(B, T, Q, V)`): The model's output.
        labels (`torch.LongTensor` of shape `(B, T, Q)`): Delayed ids; -100 where nothing is to be predicted.

    Returns:
        `torch.FloatTensor` and `torch.LongTensor` of shape `(Q,)`: Sum of the nats, and number of the predicted ids.
    """
    losses = functional.cross_entropy(
        logits.float().flatten(0, 2), labels.flatten(), ignore_index=-100, reduction="none"
    )
    return losses.double().view_as(labels).sum(dim=(0, 1)), (labels != -100).sum(dim=(0, 1))


class CodebookPerplexity(evaluate.Metric):
    """Perplexity from sums: nats and counts are added over batches and over ranks, and only then divided and
    exponentiated.

    Each example is one batch: the sums that [`codebook_nats`] gives. Where torch.distributed is initialised, every
    rank adds its own batches and calls `compute`, and every rank gets the result of all of them; construct it with
    `keep_in_memory=True` there, as the ranks share no file.

    Example:

    ```python
    >>> import math
    >>> from smalle_hf.metrics import CodebookPerplexity

    >>> metric = CodebookPerplexity(keep_in_memory=True)
    >>> metric.add(nats=[math.log(4) * 10, 0.0], counts=[10, 10])
    >>> [round(value, 6) for value in metric.compute()["perplexity_per_codebook"]]
    [4.0, 1.0]
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Perplexity per codebook and over all of them, from sums over batches and ranks.",
            citation="",
            inputs_description="nats: cross-entropy sums per codebook; counts: predicted ids per codebook.",
            features=datasets.Features(
                {
                    "nats": datasets.Sequence(datasets.Value("float64")),
                    "counts": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, nats: list[list[float]], counts: list[list[int]]) -> dict[str, Any]:
        """Adds, reduces and exponentiates.

        Args:
            nats (`list[list[float]]` of shape `(batches, Q)`): Sums of the cross-entropies.
            counts (`list[list[int]]` of shape `(batches, Q)`): Number of predicted ids.

        Returns:
            `dict`: `perplexity` over all codebooks, `perplexity_per_codebook` (`list` of Q), `nats_per_code` and
            `num_codes`. The perplexity of a codebook without ids is NaN.
        """
        totals = torch.tensor([nats, counts], dtype=torch.float64).sum(dim=1)
        if dist.is_available() and dist.is_initialized():
            device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
            totals = totals.to(device)
            dist.all_reduce(totals)
        sums, numbers = totals.tolist()
        per_codebook = [_perplexity(total, number) for total, number in zip(sums, numbers, strict=True)]
        return {
            "perplexity": _perplexity(sum(sums), sum(numbers)),
            "perplexity_per_codebook": per_codebook,
            "nats_per_code": sum(sums) / sum(numbers) if sum(numbers) else math.nan,
            "num_codes": int(sum(numbers)),
        }


def _perplexity(nats: float, count: float) -> float:
    if not count:
        return math.nan
    # An exploded model is a result too, not an OverflowError.
    return math.exp(nats / count) if nats / count < 700 else math.inf


__all__ = ["CodebookPerplexity", "codebook_nats"]
