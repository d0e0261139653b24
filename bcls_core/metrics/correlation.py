"""Does a query's gallery come in the order its labels ask for: Kendall's tau-b and Spearman's rho."""

from __future__ import annotations

from bcls_core.metrics.graded import graded_queries, mean_of_defined
from bcls_core.metrics.strips import Scores


def rank_correlation(scores: Scores, labels: Scores, *, block: int | None = None) -> dict[str, float]:
    """Mean rank correlation of scores and labels, per query over the whole gallery, in both directions.

    A query whose scores or labels are all equal has no correlation: it is left out of the mean, and the `_queries`
    figure tells how many were not. Against labels that a model was trained on this measures the fit to those labels, no
    more.

    Args:
        scores: (images, captions), higher is closer; infinities are ordered.
        labels: (images, captions), higher is more relevant.
        block: queries at a time; no result depends on it.

    Returns:
        For each of `i2t` and `t2i`: `/kendall` (tau-b) and `/spearman` (average ranks), in [-1, 1], NaN where no query
        is left; `/kendall_queries` and `/spearman_queries`, the number of queries in the mean.

    Raises:
        ShapeError: shapes disagree, or a value is NaN (names row and column).
    """
    result: dict[str, float] = {}
    for direction, queries in zip(("i2t", "t2i"), graded_queries(scores, labels, block=block), strict=True):
        for name, values in (("kendall", queries.kendall), ("spearman", queries.spearman)):
            result[f"{direction}/{name}"], result[f"{direction}/{name}_queries"] = mean_of_defined(values)
    return result
