"""All pairs of a row's candidates, for every row, in blocks that fit a processor's memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# Elements of one block. A CPU is fastest while a block's few temporaries stay in the second-level cache; an accelerator
# wants few launches.
CPU_BLOCK = 2**17
ACCELERATOR_BLOCK = 2**24


def pair_blocks(matrix: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut the (rows, columns, columns) pairs of a matrix: rows and first columns of each block; its second are all."""
    rows, columns = matrix.shape
    budget = CPU_BLOCK if matrix.device.type == "cpu" else ACCELERATOR_BLOCK
    row_step = max(1, budget // columns**2)
    column_step = min(columns, max(1, budget // columns))
    for row in range(0, rows, row_step):
        for column in range(0, columns, column_step):
            yield slice(row, row + row_step), slice(column, column + column_step)
