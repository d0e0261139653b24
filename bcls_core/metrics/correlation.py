"""Does a query's gallery come in the order its labels ask for: Kendall's tau-b and Spearman's rho."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bcls_core.errors import ShapeError
from bcls_core.metrics.arrays import Matrix, as_numpy, require_matrix, require_no_nan, rows_of


def rank_correlation(scores: Matrix, labels: Matrix) -> dict[str, float]:
    """Mean rank correlation of scores and labels, per query over the whole gallery, in both directions.

    A query whose scores or labels are all equal has no correlation: it is left out of the mean, and the `_queries`
    figure tells how many were not. Against labels that a model was trained on this measures the fit to those labels, no
    more.

    Args:
        scores: (images, captions), higher is closer; infinities are ordered.
        labels: (images, captions), higher is more relevant.

    Returns:
        For each of `i2t` and `t2i`: `/kendall` (tau-b) and `/spearman` (average ranks), in [-1, 1], NaN where no query
        is left; `/kendall_queries` and `/spearman_queries`, the number of queries in the mean.

    Raises:
        ShapeError: shapes disagree, or a value is NaN (names row and column).
    """
    if require_matrix("scores", scores) != require_matrix("labels", labels):
        raise ShapeError(f"labels: shape {tuple(labels.shape)}, but scores have {tuple(scores.shape)}.")
    for name, given in (("scores", scores), ("labels", labels)):
        require_no_nan(name, rows_of(given, 0, given.shape[0]))
    s, r = as_numpy(scores), as_numpy(labels)
    result: dict[str, float] = {}
    for direction, x, y in (("i2t", s, r), ("t2i", s.T, r.T)):
        for name, values in (("kendall", kendall_rows(x, y)), ("spearman", spearman_rows(x, y))):
            defined = values[~np.isnan(values)]
            result[f"{direction}/{name}"] = float(defined.mean()) if len(defined) else float("nan")
            result[f"{direction}/{name}_queries"] = float(len(defined))
    return result


def kendall_rows(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Kendall's tau-b of each pair of rows, (rows,); NaN where a row is constant."""
    return np.array([_tau_b(a, b) for a, b in zip(x, y, strict=True)], dtype=np.float64)


def spearman_rows(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Spearman's rho of each pair of rows, ties at their average rank, (rows,); NaN where a row is constant."""
    return np.array(
        [_pearson(_centred_ranks(a), _centred_ranks(b)) for a, b in zip(x, y, strict=True)], dtype=np.float64
    )


def _tau_b(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(stats.kendalltau(a, b).statistic)


def _centred_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    ranks: NDArray[np.float64] = stats.rankdata(values) - (len(values) + 1) / 2
    return ranks


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    scale = float(a @ a) * float(b @ b)
    return float(a @ b) / scale**0.5 if scale > 0 else float("nan")
