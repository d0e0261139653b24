"""Compiled medians and correlations of `replicates`. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@compiled
def medians(counts: Floats, values: Floats, image: Integers, drawn: Floats, result: Floats) -> None:
    """Median of the drawn values, the mean of the two middle ones; one pass over half of them a resample.

    Args:
        counts: (resamples, images) whole numbers.
        values, image: (queries,), ascending values.
        drawn: (resamples,) number of queries drawn.
        result: (resamples,) to be written, NaN where nothing is drawn.
    """
    for r in range(len(counts)):
        n = int(drawn[r])
        if n == 0:
            result[r] = np.nan
            continue
        lower, upper = (n - 1) // 2, n // 2  # places of the middle two, from 0
        weight = counts[r]
        q = 0
        passed = weight[image[0]]
        while passed <= lower:
            q += 1
            passed += weight[image[q]]
        low = values[q]
        while passed <= upper:
            q += 1
            passed += weight[image[q]]
        result[r] = (low + values[q]) / 2


@compiled
def spearmans(
    counts: Floats,
    x: Integers,
    y: Integers,
    x_levels: int,
    y_levels: int,
    image: Integers,
    result: Floats,
) -> None:
    """Spearman's rho of the drawn pairs, equal values at their average rank; linear in the pairs.

    Args:
        counts: (resamples, images) whole numbers.
        x, y: (pairs,) place of each value among the distinct ones, ascending.
        x_levels, y_levels: number of distinct values.
        image: (pairs,).
        result: (resamples,) to be written, NaN where all x or all y that are drawn are equal.
    """
    x_rank, y_rank = np.empty(x_levels), np.empty(y_levels)
    for r in range(len(counts)):
        weight = counts[r]
        x_rank[:] = 0.0
        y_rank[:] = 0.0
        drawn = 0.0
        for p in range(len(x)):
            times = weight[image[p]]
            x_rank[x[p]] += times
            y_rank[y[p]] += times
            drawn += times
        _centre(x_rank, drawn)
        _centre(y_rank, drawn)
        xx, yy, xy = 0.0, 0.0, 0.0
        for p in range(len(x)):
            a, b, times = x_rank[x[p]], y_rank[y[p]], weight[image[p]]
            xx += times * a * a
            yy += times * b * b
            xy += times * a * b
        result[r] = xy / np.sqrt(xx * yy) if xx > 0 and yy > 0 else np.nan


@compiled
def _centre(rank: Any, drawn: Any) -> None:
    """How often each level is drawn becomes twice its average rank, counted from the middle: whole numbers, exact."""
    below = 0.0
    for level in range(len(rank)):
        times = rank[level]
        rank[level] = 2 * below + times - drawn
        below += times
