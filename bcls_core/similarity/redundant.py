"""Rows that can be nobody's answer, because enough equal rows with lower numbers come before them.

Where thousands of rows are equal, every one of them ties with every other, and no product can tell them apart. But ties
go to the lower row, so a row with k equal predecessors that a query may find is never among its best k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcls_core.similarity import row_kernels
from bcls_core.similarity.cosine import StoredRows
from bcls_core.similarity.measure import IntArray
from bcls_core.similarity.parallel import over_parts, read_only


def redundant_rows(rows: StoredRows, k: int, groups: IntArray | None) -> NDArray[np.bool_]:
    """(rows,) True where a row cannot be among the k best of any query.

    Args:
        rows: (rows, dimension) fp16.
        groups: (rows,) a query does not find rows of its own group; None if it finds all.
    """
    redundant = np.zeros(len(rows), dtype=np.bool_)
    bits = read_only(np.ascontiguousarray(rows).view(np.uint16))
    hashes = np.empty(len(rows), dtype=np.uint64)
    over_parts(len(rows), lambda part: row_kernels.row_hashes(bits[part], hashes[part]))
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(hashes[order]) != 0])) if len(rows) else order
    lengths = np.diff(starts, append=len(rows))
    for start, length in zip(starts[lengths > k], lengths[lengths > k], strict=True):
        alike = order[start : start + length]
        equal = alike[(bits[alike] == bits[alike[0]]).all(axis=1)]  # a hash may be shared by chance
        hidden = 0 if groups is None else int(np.unique(groups[equal], return_counts=True)[1].max())
        redundant[equal[k + hidden :]] = True
    return redundant
