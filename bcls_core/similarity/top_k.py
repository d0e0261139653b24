"""Exact nearest rows by cosine, block by block.

A fast fp32 product proposes candidates. Its error has a proven bound, so no row that belongs among the best can be
missed; the exact cosine (`cosine.py`) of each candidate then decides. Hence the result does not depend on block sizes,
on the number of threads, or on the library behind the product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bcls_core.errors import ShapeError
from bcls_core.similarity.cosine import ExactRows, StoredRows, stored_rows
from bcls_core.similarity.exclusion import Exclusion, exclusion
from bcls_core.similarity.measure import FloatArray, Groups, IntArray
from bcls_core.similarity.ranking import MAX_ROWS, BestK, ordered, restored

NEIGHBOURS_VERSION = 1
"""Raised by hand whenever the scores or the order of any result change."""

_PAIRS_AT_ONCE = 1024  # their float64 rows stay in the cache
_DENSE_SHARE = 64  # with more than one candidate in 64, the exact product of the whole block is cheaper
_BELOW_ANY_COSINE = np.float32(-2.0)


def top_k(
    embeddings: ArrayLike,
    k: int,
    *,
    queries: ArrayLike | None = None,
    exclude: Groups | None = None,
    exclude_queries: Groups | None = None,
    query_block: int = 1024,
    row_block: int = 4096,
) -> tuple[FloatArray, IntArray]:
    """The k rows of `embeddings` with the highest cosine to each query, exact.

    A score is the float64 dot product of the two fp16 rows over their float64 norms, rounded to fp32. Memory beyond the
    arguments and the result: one (query_block, row_block) tile, and an fp16 copy of what is not fp16 already.

    Args:
        embeddings: (rows, dimension); fp16 as stored, other numbers are rounded to it first (`stored_rows`).
        k: how many rows to find for each query.
        queries: (queries, dimension); the rows themselves if None, and then no row finds itself.
        exclude: (rows,) group of each row, for instance its image; rows of the query's own group are skipped.
        exclude_queries: (queries,) group of each query; needed when both `queries` and `exclude` are given.
        query_block, row_block: tile shape; no influence on the result.
    Returns:
        scores: (queries, k) float32, descending; equal scores by ascending row number.
        ids: (queries, k) int64 row numbers. Where fewer than k rows may be found, the places left over hold score -inf
            and id -1.
    Raises:
        ShapeError: shapes disagree, k or a block is below 1, or a row is zero, NaN or infinite.
    """
    if k < 1 or query_block < 1 or row_block < 1:
        raise ShapeError(f"found k={k}, query_block={query_block}, row_block={row_block}; each must be at least 1.")
    rows = stored_rows(embeddings)
    asked = rows if queries is None else stored_rows(queries, "queries")
    if rows.shape[1] != asked.shape[1]:
        raise ShapeError(
            f"queries have {asked.shape[1]} values, embeddings {rows.shape[1]}. Encode both sides with one model."
        )
    if len(rows) > MAX_ROWS:
        raise ShapeError(f"found {len(rows)} embeddings, at most {MAX_ROWS} can be ranked at once. Split them.")
    skipped = exclusion(len(rows), None if queries is None else len(asked), exclude, exclude_queries)
    search = _Search(rows, k, skipped, row_block)
    blocks = [search.run(asked, slice(start, start + query_block)) for start in range(0, len(asked), query_block)]
    if not blocks:
        return np.empty((0, k), dtype=np.float32), np.empty((0, k), dtype=np.int64)
    return np.concatenate([scores for scores, _ in blocks]), np.concatenate([ids for _, ids in blocks])


class _Search:
    """The rows searched, and what is known about them."""

    def __init__(self, rows: StoredRows, k: int, skipped: Exclusion | None, row_block: int) -> None:
        self._rows = rows
        self._k = k
        self._skipped = skipped
        self._row_block = row_block
        self._slack = _proposal_error(rows.shape[1])

    def run(self, asked: StoredRows, block: slice) -> tuple[FloatArray, IntArray]:
        """The result for the queries `asked[block]`."""
        queries = ExactRows.of(asked[block])
        unit_queries = queries.unit()
        best = BestK(len(unit_queries), self._k)
        for start in range(0, len(self._rows), self._row_block):
            tile = slice(start, min(start + self._row_block, len(self._rows)))
            rows = ExactRows.of(self._rows[tile])
            mask = None if self._skipped is None else self._skipped.mask(block, tile)
            proposals = unit_queries @ rows.unit().T
            if mask is not None:
                proposals[mask] = -np.inf
            candidates = np.flatnonzero(proposals >= self._threshold(proposals, best)[:, None])
            if len(candidates) * _DENSE_SHARE > proposals.size:
                scores = queries.matrix(rows)
                if mask is not None:
                    scores[mask] = -np.inf
                best.offer_block(scores, start)
            else:
                query, row = np.divmod(candidates, proposals.shape[1])
                best.offer_pairs(query, row + start, _scores(queries, rows, query, row))
        return best.result()

    def _threshold(self, proposals: FloatArray, best: BestK) -> FloatArray:
        """(queries,) the lowest proposal behind which one of the best k can still be.

        The k-th exact score found so far is a lower bound of the k-th best, and so is the tile's own k-th proposal less
        the error; a row that reaches the bound has a proposal at most the error below it.
        """
        floor = best.floor()
        threshold = floor.astype(np.float64) - self._slack
        if self._k <= proposals.shape[1] and np.isneginf(floor).any():
            place = proposals.shape[1] - self._k
            kth = np.partition(ordered(proposals), place, axis=1)[:, place]
            threshold = np.maximum(threshold, restored(kth).astype(np.float64) - 2 * self._slack)
        below = np.nextafter(threshold.astype(np.float32), np.float32(-np.inf))
        return np.maximum(below, _BELOW_ANY_COSINE)


def _proposal_error(dimension: int) -> float:
    """Bound of |proposal - published score| for rows of `dimension` values.

    With u = 2^-24: the values of both unit rows are rounded once, an fp32 dot product of unit rows, in any order, errs
    by at most d u / (1 - d u) (Higham 2002, section 3.1), and publishing rounds once more: (d + 4) u / (1 - (d + 4) u)
    covers all of it and float64's own errors.
    """
    terms = (dimension + 4) * 2.0**-24
    return terms / (1 - terms)


def _scores(queries: ExactRows, rows: ExactRows, query: IntArray, row: IntArray) -> FloatArray:
    """Exact scores of single (query, row) candidates."""
    scores = np.empty(len(query), dtype=np.float32)
    for start in range(0, len(query), _PAIRS_AT_ONCE):
        chunk = slice(start, start + _PAIRS_AT_ONCE)
        scores[chunk] = queries.take(query[chunk]).pairs(rows.take(row[chunk]))
    return scores
