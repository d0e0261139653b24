"""Sparse tf-idf rows, and the mean over n of their cosines as one exactly defined number.

A row holds for every n = 1..4 the unit tf-idf vector of the caption's n-grams, its weights rounded to multiples of
2^-24 (which fp32 holds exactly). Products are then multiples of 2^-48 and no sum gets to 5, so float64 adds them
without error in any order; a quarter of the sum, at most 1, rounded to fp32, is the similarity. A measure that weighs
lengths multiplies in float64 before it rounds to fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bcls_core.errors import ShapeError
from bcls_core.similarity.exclusion import exclusion
from bcls_core.similarity.measure import FloatArray, Found, Groups, IntArray
from bcls_core.similarity.ranking import MAX_ROWS
from bcls_core.similarity.tokens import LONGEST_NGRAM

SparseRows = Any
"""scipy.sparse.csr_array, (captions, n-grams), float32 weights, int32 sorted indices."""

WEIGHT_GRID = 2.0**24


class TfidfSimilarity:
    """Mean over n = 1..4 of the tf-idf cosine of stored sparse rows."""

    penalties: NDArray[np.float64] = np.ones(1)
    """Factor for lengths that differ by 0, 1, ...; the last for whatever differs more."""

    def operands(self, a: Any, b: Any) -> tuple[SparseRows, SparseRows]:
        """Rows whose plain products are four times the similarities before any penalty, over the same columns."""
        width = max(a.shape[1], b.shape[1])
        return _widened(a, width), _widened(b, width)

    def lengths(self, rows: Any) -> IntArray:
        """(rows,) what the penalties compare."""
        return np.zeros(rows.shape[0], dtype=np.int64)

    def pairs(self, a: Any, b: Any) -> FloatArray:
        """(n,) similarities of row i of `a` with row i of `b`."""
        if a.shape[0] != b.shape[0]:
            raise ShapeError(f"pairs: found {a.shape[0]} and {b.shape[0]} rows. Give as many on both sides.")
        left, right = _alike(*self.operands(a, b))
        dots = np.asarray(left.multiply(right).sum(axis=1), dtype=np.float64).reshape(-1)
        return self._published(dots, self.lengths(a), self.lengths(b))

    def matrix(self, a: Any, b: Any) -> FloatArray:
        """(len(a), len(b)) similarities."""
        left, right = _alike(*self.operands(a, b))
        return self._published((left @ right.T.tocsr()).toarray(), self.lengths(a)[:, None], self.lengths(b)[None, :])

    def top_k(
        self,
        rows: Any,
        k: int,
        *,
        queries: Any | None = None,
        exclude: Groups | None = None,
        exclude_queries: Groups | None = None,
        queries_at_once: int = 512,
    ) -> tuple[FloatArray, IntArray]:
        """The k most similar rows of each query, exact; arguments and result as `bcls_core.similarity.top_k`.

        Memory beyond the arguments and the result: two copies of the rows' weights with their places, 4 bytes a row and
        n-gram for each thread.

        Args:
            queries_at_once: queries of one thread's task; no influence on the result.
        """
        from bcls_core.similarity.tfidf_search import search  # loads the compiler

        if k < 1 or queries_at_once < 1:
            raise ShapeError(f"found k={k}, queries_at_once={queries_at_once}; each must be at least 1.")
        if rows.shape[0] > MAX_ROWS:
            raise ShapeError(f"found {rows.shape[0]} rows, at most {MAX_ROWS} can be ranked at once. Split them.")
        asked = rows if queries is None else queries
        skipped = exclusion(rows.shape[0], None if queries is None else queries.shape[0], exclude, exclude_queries)
        lengths = self.lengths(asked), self.lengths(rows)
        return search(
            *self.operands(asked, rows), *lengths, self.penalties, k, skipped, queries is None, queries_at_once
        )

    def search_of(self, rows: Any, k: int, *, exclude: Groups | None = None) -> Callable[[IntArray], Found]:
        """See `bcls_core.similarity.measure.RowSimilarity`."""
        groups = np.arange(rows.shape[0]) if exclude is None else np.asarray(exclude)

        def found(places: IntArray) -> Found:
            if np.array_equal(places, np.arange(rows.shape[0])):
                return self.top_k(rows, k, exclude=groups)
            return self.top_k(rows, k, queries=rows[places], exclude=groups, exclude_queries=groups[places])

        return found

    def _published(self, dots: NDArray[np.float64], a: IntArray, b: IntArray) -> FloatArray:
        scores = np.minimum(dots / LONGEST_NGRAM, 1.0)
        if len(self.penalties) > 1:
            scores *= self.penalties[np.minimum(np.abs(a - b), len(self.penalties) - 1)]
        return scores.astype(np.float32)


def _alike(a: SparseRows, b: SparseRows) -> tuple[SparseRows, SparseRows]:
    """Both in float64 over the n-grams that occur in either: a vocabulary has millions, a batch some thousands."""
    used = np.unique(np.concatenate([a.indices, b.indices]))
    return _renumbered(a, used), _renumbered(b, used)


def _renumbered(rows: SparseRows, used: IntArray) -> SparseRows:
    indices = np.searchsorted(used, rows.indices).astype(np.int32)
    return sparse.csr_array((rows.data.astype(np.float64), indices, rows.indptr), shape=(rows.shape[0], len(used)))


def _widened(rows: SparseRows, width: int) -> SparseRows:
    if rows.shape[1] == width:
        return rows
    return sparse.csr_array((rows.data, rows.indices, rows.indptr), shape=(rows.shape[0], width))
