"""Sparse tf-idf rows, and the mean over n of their cosines as one exactly defined number.

A row holds for every n = 1..4 the unit tf-idf vector of the caption's n-grams, its weights rounded to multiples of
2^-24 (which fp32 holds exactly). Products are then multiples of 2^-48 and no sum gets to 5, so float64 adds them
without error in any order; a quarter of the sum, at most 1, rounded to fp32, is the similarity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from bcls_core.errors import ShapeError
from bcls_core.similarity.exclusion import exclusion
from bcls_core.similarity.measure import FloatArray, Groups, IntArray
from bcls_core.similarity.ranking import MAX_ROWS, BestK
from bcls_core.similarity.tokens import LONGEST_NGRAM

SparseRows = Any
"""scipy.sparse.csr_array, (captions, n-grams), float32 weights, int32 sorted indices."""

_TILE_CELLS = 1 << 22  # float64 cells of one dense tile: 32 MiB


class TfidfSimilarity:
    """Mean over n = 1..4 of the tf-idf cosine of stored sparse rows."""

    def pairs(self, a: SparseRows, b: SparseRows) -> FloatArray:
        """(n,) similarities of row i of `a` with row i of `b`."""
        if a.shape[0] != b.shape[0]:
            raise ShapeError(f"pairs: found {a.shape[0]} and {b.shape[0]} rows. Give as many on both sides.")
        a, b = _alike(a, b)
        return _published(np.asarray(a.multiply(b).sum(axis=1), dtype=np.float64).reshape(-1))

    def matrix(self, a: SparseRows, b: SparseRows) -> FloatArray:
        """(len(a), len(b)) similarities."""
        a, b = _alike(a, b)
        return _tile(a, b.T.tocsr())

    def top_k(
        self,
        rows: SparseRows,
        k: int,
        *,
        queries: SparseRows | None = None,
        exclude: Groups | None = None,
        exclude_queries: Groups | None = None,
        tile_cells: int = _TILE_CELLS,
    ) -> tuple[FloatArray, IntArray]:
        """The k most similar rows of each query, exact; arguments and result as `bcls_core.similarity.top_k`.

        Args:
            tile_cells: size of the dense tile that is held; no influence on the result.
        """
        if k < 1 or tile_cells < 1:
            raise ShapeError(f"found k={k}, tile_cells={tile_cells}; each must be at least 1.")
        if rows.shape[0] > MAX_ROWS:
            raise ShapeError(f"found {rows.shape[0]} rows, at most {MAX_ROWS} can be ranked at once. Split them.")
        skipped = exclusion(rows.shape[0], None if queries is None else queries.shape[0], exclude, exclude_queries)
        asked, searched = _alike(rows if queries is None else queries, rows)
        count, asked_count = rows.shape[0], asked.shape[0]
        row_step = max(1, min(count, tile_cells))
        query_step = max(1, tile_cells // row_step)
        scores = np.full((asked_count, k), -np.inf, dtype=np.float32)
        ids = np.full((asked_count, k), -1, dtype=np.int64)
        columns = [(start, searched[start : start + row_step].T.tocsr()) for start in range(0, count, row_step)]
        for first in range(0, asked_count, query_step):
            block = slice(first, min(first + query_step, asked_count))
            best = BestK(block.stop - block.start, k)
            for start, transposed in columns:
                tile = _tile(asked[block], transposed)
                if skipped is not None:
                    tile[skipped.mask(block, slice(start, start + row_step))] = -np.inf
                best.offer_block(tile, start)
            scores[block], ids[block] = best.result()
        return scores, ids


def _alike(a: SparseRows, b: SparseRows) -> tuple[SparseRows, SparseRows]:
    """Both in float64 over the n-grams that occur in either: a vocabulary has millions, a batch some thousands."""
    used = np.unique(np.concatenate([a.indices, b.indices]))
    return _renumbered(a, used), _renumbered(b, used)


def _renumbered(rows: SparseRows, used: IntArray) -> SparseRows:
    indices = np.searchsorted(used, rows.indices).astype(np.int32)
    return sparse.csr_array((rows.data.astype(np.float64), indices, rows.indptr), shape=(rows.shape[0], len(used)))


def _tile(a: SparseRows, transposed: SparseRows) -> FloatArray:
    return _published((a @ transposed).toarray())


def _published(dots: np.ndarray[Any, np.dtype[np.float64]]) -> FloatArray:
    return np.minimum(dots / LONGEST_NGRAM, 1.0).astype(np.float32)
