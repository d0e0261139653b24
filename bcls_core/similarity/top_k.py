"""The nearest rows by cosine, exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bcls_core.errors import ShapeError
from bcls_core.similarity.cosine import StoredRows, stored_rows
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
    already, two float64 copies of some 4,000 rows while rows are prepared, and less than 1 MB for the hits of each
    task. The first call of all compiles for some seconds; later processes load that.

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
    rows = stored_rows(embeddings)
    if queries is None:
        if exclude_queries is not None:
            exclusion(len(rows), None, exclude, exclude_queries)  # refuses them
        return Search(rows, k, exclude=exclude)()
    asked = stored_rows(queries, "queries")
    if rows.shape[1] != asked.shape[1]:
        raise ShapeError(
            f"queries have {asked.shape[1]} values, embeddings {rows.shape[1]}. Encode both sides with one model."
        )
    skipped = exclusion(len(rows), len(asked), exclude, exclude_queries)
    _check(k, len(rows), len(asked))
    if skipped is None:
        return _Prepared(rows, None, k).nearest_to(asked, None)
    return _Prepared(rows, skipped.rows, k).nearest_to(asked, skipped.queries)


class Search:
    """A search among rows for the neighbours of some of them, prepared once and asked often."""

    def __init__(self, embeddings: ArrayLike, k: int, *, exclude: Groups | None = None) -> None:
        """As `top_k`.

        Raises:
            ShapeError: as there.
        """
        self._rows = stored_rows(embeddings)
        _check(k, len(self._rows))
        skipped = exclusion(len(self._rows), None, exclude, None)
        self._groups = np.arange(len(self._rows)) if skipped is None else skipped.rows
        self._prepared = _Prepared(self._rows, self._groups, k)

    def __call__(self, places: IntArray | None = None) -> tuple[FloatArray, IntArray]:
        """(places, k) scores and rows nearest to the rows at `places`; to each row if None, with half the products."""
        if places is None or np.array_equal(places, np.arange(len(self._rows))):
            return self._prepared.nearest_to_each()
        return self._prepared.nearest_to(self._rows[places], self._groups[places])


class _Prepared:
    """Rows that may be answers, ready for the kernels, which are imported here: they load the compiler."""

    def __init__(self, rows: StoredRows, groups: IntArray | None, k: int) -> None:
        from bcls_core.similarity.prepared_rows import PreparedRows
        from bcls_core.similarity.redundant import redundant_rows

        self._rows, self._groups, self._k = rows, groups, k
        redundant = redundant_rows(rows, k, groups)
        self._answers = PreparedRows.of(rows, groups, which=np.flatnonzero(~redundant))
        self._others = np.flatnonzero(redundant)

    def nearest_to(self, asked: StoredRows, groups: IntArray | None) -> tuple[FloatArray, IntArray]:
        from bcls_core.similarity.nearest import find
        from bcls_core.similarity.prepared_rows import PreparedRows

        scores, ids = self._places(len(asked))
        find(scores, ids, self._answers, PreparedRows.of(asked, groups, basis=self._answers.basis))
        return scores, ids

    def nearest_to_each(self) -> tuple[FloatArray, IntArray]:
        from bcls_core.similarity.nearest import find
        from bcls_core.similarity.prepared_rows import PreparedRows

        scores, ids = self._places(len(self._rows))
        find(scores, ids, self._answers)
        if len(self._others):
            others = PreparedRows.of(self._rows, self._groups, which=self._others, basis=self._answers.basis)
            find(scores, ids, self._answers, others)
        return scores, ids

    def _places(self, count: int) -> tuple[FloatArray, IntArray]:
        return np.empty((count, self._k), dtype=np.float32), np.empty((count, self._k), dtype=np.int64)


def _check(k: int, *counts: int) -> None:
    if k < 1:
        raise ShapeError(f"found k={k}; it must be at least 1.")
    if max(counts) > MOST_ROWS:
        raise ShapeError(f"found {max(counts)} rows, at most {MOST_ROWS} can be searched. Split them.")
