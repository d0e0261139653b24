"""The nearest rows by cosine, exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bcls_core.errors import ShapeError
from bcls_core.similarity.cosine import stored_rows
from bcls_core.similarity.exclusion import exclusion
from bcls_core.similarity.measure import FloatArray, Groups, IntArray

NEIGHBOURS_VERSION = 1
"""Raised by hand whenever the scores or the order of any result change."""

MOST_ROWS = 2**31 - 1
"""Rows have 32-bit numbers while they are searched."""


def top_k(
    embeddings: ArrayLike,
    k: int,
    *,
    queries: ArrayLike | None = None,
    exclude: Groups | None = None,
    exclude_queries: Groups | None = None,
) -> tuple[FloatArray, IntArray]:
    """The k rows of `embeddings` with the highest cosine to each query, exact.

    A score is the float64 dot product of the two fp16 rows over their float64 norms, rounded to fp32. Fast products
    only propose (`nearest.py`), on torch's threads; neither they nor the processor have an influence on the result.
    Memory beyond the arguments and the result: a 16-bit integer for each value, an fp16 copy of what is not fp16
    already, and less than 1 MB for the hits of each task. The first call of all compiles for some seconds; later
    processes load that.

    Args:
        embeddings: (rows, dimension); fp16 as stored, other numbers are rounded to it first (`stored_rows`).
        k: how many rows to find for each query.
        queries: (queries, dimension); the rows themselves if None, and then no row finds itself.
        exclude: (rows,) group of each row, for instance its image; rows of the query's own group are skipped.
        exclude_queries: (queries,) group of each query; needed when both `queries` and `exclude` are given.
    Returns:
        scores: (queries, k) float32, descending; equal scores by ascending row number.
        ids: (queries, k) int64 row numbers. Where fewer than k rows may be found, the places left over hold score -inf
            and id -1.
    Raises:
        ShapeError: shapes disagree, k is below 1, or a row is zero, NaN or infinite.
    """
    if k < 1:
        raise ShapeError(f"found k={k}; it must be at least 1.")
    rows = stored_rows(embeddings)
    asked = rows if queries is None else stored_rows(queries, "queries")
    if rows.shape[1] != asked.shape[1]:
        raise ShapeError(
            f"queries have {asked.shape[1]} values, embeddings {rows.shape[1]}. Encode both sides with one model."
        )
    if max(len(rows), len(asked)) > MOST_ROWS:
        raise ShapeError(f"found {max(len(rows), len(asked))} rows, at most {MOST_ROWS} can be searched. Split them.")
    skipped = exclusion(len(rows), None if queries is None else len(asked), exclude, exclude_queries)
    groups = None if skipped is None else skipped.rows
    # Imported here: it loads the compiler.
    from bcls_core.similarity.nearest import PreparedRows, find
    from bcls_core.similarity.redundant import redundant_rows

    scores, ids = np.empty((len(asked), k), dtype=np.float32), np.empty((len(asked), k), dtype=np.int64)
    redundant = redundant_rows(rows, k, groups)
    answers = PreparedRows.of(rows, groups, which=np.flatnonzero(~redundant))
    if queries is not None:
        find(scores, ids, answers, PreparedRows.of(asked, None if skipped is None else skipped.queries))
    else:
        find(scores, ids, answers)
        if redundant.any():
            find(scores, ids, answers, PreparedRows.of(rows, groups, which=np.flatnonzero(redundant)))
    return scores, ids
