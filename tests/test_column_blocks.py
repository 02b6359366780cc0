"""Columns that come one by one come out in one piece, and are not kept one by one meanwhile."""

import weakref

import pytest
import torch

from smalle_hf.column_blocks import BLOCK_SIZE, ColumnBlocks


@pytest.mark.parametrize("num_before", [0, 3])
@pytest.mark.parametrize("num_columns", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, 2 * BLOCK_SIZE + 1])
def test_all_columns_come_out_in_order(num_before: int, num_columns: int) -> None:
    expected = torch.randint(1024, (2, num_before + num_columns, 4))
    columns = ColumnBlocks(expected[:, :num_before])
    for column in expected[:, num_before:].unbind(1):
        columns.append(column)
    assert torch.equal(columns.join(), expected)


def test_full_blocks_let_go_of_their_columns() -> None:
    columns, references = ColumnBlocks(torch.zeros(1, 0, 4)), []
    for _ in range(BLOCK_SIZE):
        assert all(reference() is not None for reference in references)
        column = torch.zeros(1, 4)
        references.append(weakref.ref(column))
        columns.append(column)
    del column
    assert all(reference() is None for reference in references)
