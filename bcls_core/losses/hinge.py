"""The exact hinge on the CPU without its cubic cost: value and gradient follow from counts of violated pairs.

The hinge is piecewise linear. Where `won_k` counts the pairs in which candidate k should lose and does not, and
`lost_j` those in which j should win and does not, the gradient of a row is `won - lost`, and its value is linear in
these counts too. They are dominance counts over (label, score), which need no list of pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcls_core.losses.compiled import over_rows

SORTED_FROM = 256
"""Columns from which sorting is faster than comparing all (`python -m tests.benchmarks.kendall --crossover`)."""


def hinge_discordance(
    scores: Tensor, labels: Tensor, *, gap: float, window: int, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of `[s_k - s_j + margin]_+` over each row's ordered pairs, number of pairs, and gradient of the sums.

    O(columns log columns) a row for the sorts and as good as linear for the rest, O(rows * columns) memory, on all of
    torch's threads; short rows are compared pair by pair. Every form and every number of threads gives the same bits.

    Args:
        scores, labels: (rows, columns) CPU tensors, float32 or float64 each.
        gap, window, margin: as in `row_discordance`; gap representable in the labels' dtype.
    Returns:
        float64 sums (rows,), float64 counts (rows,), gradient (rows, columns) in the scores' dtype.
    """
    from bcls_core.losses.hinge_kernels import compare_all, sweep  # loads a compiler: only for who needs it

    rows, columns = scores.shape
    s, r = scores.detach().contiguous().numpy(), labels.detach().contiguous().numpy()
    sums, pairs, slopes = np.empty(rows), np.zeros(rows, np.int64), np.empty_like(s)
    threshold, lowest = r.dtype.type(gap), -s.dtype.type(margin)

    by_sorting = columns >= SORTED_FROM or window > 1

    def count(part: slice) -> None:
        won, lost = (np.zeros(s[part].shape, np.int32) for _ in range(2))
        if by_sorting:
            orders = np.argsort(r[part], axis=1), np.argsort(s[part], axis=1)
            sweep(s[part], r[part], *orders, threshold, window, lowest, won, lost, pairs[part])
        else:
            compare_all(s[part], r[part], threshold, lowest, won, lost, pairs[part])
        slopes[part] = won - lost
        sums[part] = _values(s[part], won - lost) - float(lowest) * lost.sum(1)

    over_rows(count, rows, steps=rows * columns * (256 if by_sorting else columns))
    return torch.from_numpy(sums), torch.from_numpy(pairs).double(), torch.from_numpy(slopes)


def _values(scores: np.ndarray[Any, Any], slopes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Row sums of score times slope. Slopes add up to zero, so scores are taken from the row's first: no digits are
    lost to a common offset; and scores so large that sums overflow are scaled: these become inf, never NaN."""
    scale = 2.0**-64 if float(np.abs(scores).max()) > 1e280 else 1.0
    wide = scores.astype(np.float64) * scale
    with np.errstate(over="ignore"):
        return np.asarray(((wide - wide[:, :1]) * slopes).sum(1) / scale)
