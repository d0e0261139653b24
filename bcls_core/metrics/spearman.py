"""Spearman's rho of one sample of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Pearson's correlation of ranks, ties at their average rank; NaN where all x or all y are equal, or none is there.

    Args:
        x, y: (pairs,) without NaN; infinities are ordered.
    """
    if not len(x):
        return float("nan")
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = float(a @ a) * float(b @ b)
    return float(a @ b) / scale**0.5 if scale > 0 else float("nan")


def _centred_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    ranks: NDArray[np.float64] = stats.rankdata(values) - (len(values) + 1) / 2
    return ranks
