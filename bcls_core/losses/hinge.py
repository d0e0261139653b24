"""The exact hinge on the CPU without its cubic cost: value and gradient follow from counts of violated pairs.

The hinge is piecewise linear. Where `won_k` counts the pairs in which candidate k should lose and does not, and
`lost_j` those in which j should win and does not, the gradient of a row is `won - lost`, and its value is linear in
these counts too. They are dominance counts over (label, score), which need no list of pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bcls_core.compiled import over_rows

SWEPT_FROM = 2048
"""Columns from which a sweep is faster than comparing (`python -m tests.benchmarks.kendall --crossover`)."""


def hinge_discordance(
    scores: Tensor, labels: Tensor, *, gap: float, window: int, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of `[s_k - s_j + margin]_+` over each row's ordered pairs, number of pairs, and gradient of the sums.

    Beyond a sort of the labels, short rows are compared pair by pair, many at once; long ones sort the scores too and
    are as good as linear from there. O(rows * columns) memory, on all of torch's threads; every form and every number
    of threads gives the same bits.

    Args:
        scores, labels: (rows, columns) CPU tensors, float32 or float64 each.
        gap, window, margin: as in `row_discordance`; gap representable in the labels' dtype.
    Returns:
        float64 sums (rows,), float64 counts (rows,), gradient (rows, columns) in the scores' dtype.
    """
    from bcls_core.losses.hinge_kernels import compare, sweep  # loads a compiler: only for who needs it
    from bcls_core.order_kernels import ascending

    rows, columns = scores.shape
    s, r = scores.detach().contiguous().numpy(), labels.detach().contiguous().numpy()
    sums, pairs, slopes = np.empty(rows), np.empty(rows, np.int64), np.empty_like(s)
    threshold, lowest = r.dtype.type(gap), -s.dtype.type(margin)

    def count(part: slice) -> None:
        settings, found = (threshold, window, lowest), (sums[part], pairs[part], slopes[part])
        if columns < SWEPT_FROM:
            compare(s[part], r[part], ascending(r[part]), *settings, *found)
        else:
            sweep(s[part], r[part], ascending(r[part]), ascending(s[part]), *settings, *found)

    over_rows(count, rows, steps=rows * columns * (64 + min(columns, SWEPT_FROM) // 4))
    return torch.from_numpy(sums), torch.from_numpy(pairs).double(), torch.from_numpy(slopes)
