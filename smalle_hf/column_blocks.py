"""The columns of an utterance, kept compactly while they are generated."""

import torch

BLOCK_SIZE = 256
"""Columns of a block. A tensor of its own for every column would take a hundred times the memory of its ids."""


class ColumnBlocks:
    """Columns that come one by one and are wanted in one piece.

    Args:
        before (`torch.Tensor` of shape `(B, C, ...)`): The columns that stand before them; C may be 0.
    """

    def __init__(self, before: torch.Tensor) -> None:
        self._blocks = [before]
        self._newest: list[torch.Tensor] = []

    def append(self, column: torch.Tensor) -> None:
        """Takes the next column, of shape `(B, ...)`."""
        self._newest.append(column)
        if len(self._newest) == BLOCK_SIZE:
            self._close_block()

    def join(self) -> torch.Tensor:
        """All columns, `(B, C, ...)`. They leave this object, so that they are there only once."""
        self._close_block()
        blocks, self._blocks = self._blocks, []
        return torch.cat(blocks, dim=1)

    def _close_block(self) -> None:
        if self._newest:
            self._blocks.append(torch.stack(self._newest, dim=1))
            self._newest.clear()


__all__ = ["ColumnBlocks"]
