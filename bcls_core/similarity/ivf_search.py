"""The nearest among some of the rows, a piece at a time: what every search past brute force is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bcls_core.errors import ShapeError
from bcls_core.similarity.cosine import StoredRows, stored_rows
from bcls_core.similarity.exclusion import exclusion
from bcls_core.similarity.measure import FloatArray, Groups, IntArray
from bcls_core.similarity.ranking import BestK
from bcls_core.similarity.top_k import top_k

MOST_ROWS = 65_536
"""Rows of a piece by default: 48 MiB of 384 fp16 values each."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries and what they must not find.

    Attributes:
        vectors: (queries, dimension) if the queries are no rows of the search themselves.
        panel: (queries,) row numbers if they are.
        row_groups, query_groups: (rows,) and (queries,) numbers, equal ones must not meet; None if all may.
    """

    vectors: StoredRows | None
    panel: IntArray
    row_groups: IntArray | None
    query_groups: IntArray | None

    def __len__(self) -> int:
        return len(self.panel) if self.vectors is None else len(self.vectors)

    def part(self, rows: StoredRows, part: slice | IntArray) -> tuple[StoredRows, IntArray | None]:
        """Vectors and groups of some queries."""
        vectors = rows[self.panel[part]] if self.vectors is None else self.vectors[part]
        return vectors, None if self.query_groups is None else self.query_groups[part]


def mapped_rows(rows: ArrayLike) -> StoredRows:
    """Stored rows, left on disk if they are a mapped file: their values are looked at when they are searched.

    Raises:
        ShapeError: not a matrix of numbers.
    """
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype == np.float16:
        return np.asarray(rows)
    return stored_rows(rows)


def asked_of(
    rows: StoredRows,
    queries: ArrayLike | None,
    panel: ArrayLike | None,
    exclude: Groups | None,
    exclude_queries: Groups | None,
) -> Asked:
    """The queries that a search's arguments mean.

    Raises:
        ShapeError: the arguments contradict each other or the rows.
    """
    if queries is None:
        numbers = np.arange(len(rows), dtype=np.int64) if panel is None else _row_numbers(panel, len(rows))
        groups = exclusion(len(rows), None, exclude, exclude_queries)
        if groups is None:
            return Asked(None, numbers, None, None)
        return Asked(None, numbers, groups.rows, groups.queries[numbers])
    if panel is not None:
        raise ShapeError("found queries and a panel. Ask for one: queries are vectors, a panel is numbers of rows.")
    vectors = stored_rows(queries, "queries")
    if vectors.shape[1] != rows.shape[1]:
        raise ShapeError(
            f"queries have {vectors.shape[1]} values, rows {rows.shape[1]}. Encode both sides with one model."
        )
    groups = exclusion(len(rows), len(vectors), exclude, exclude_queries)
    none = np.empty(0, dtype=np.int64)
    if groups is None:
        return Asked(vectors, none, None, None)
    return Asked(vectors, none, groups.rows, groups.queries)


def nearest_among(
    rows: StoredRows, pieces: Iterable[IntArray], k: int, asked: Asked, part: slice | IntArray
) -> tuple[FloatArray, IntArray]:
    """The k best of all pieces for some of the queries, exact; memory holds one piece of rows at a time.

    Args:
        pieces: ascending row numbers each; no row in two of them.
        part: which queries.
    Returns:
        (queries, k) scores and row numbers, as `top_k` gives them.
    """
    vectors, groups = asked.part(rows, part)
    scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    ids = np.full((len(vectors), k), -1, dtype=np.int64)
    for number, piece in enumerate(pieces):
        width = min(k, len(piece))
        near, places = top_k(
            rows[piece],
            width,
            queries=vectors,
            exclude=None if asked.row_groups is None else asked.row_groups[piece],
            exclude_queries=groups,
        )
        found = np.where(places < 0, -1, piece[places])
        if number:
            scores, ids = best_of(np.hstack([scores, near]), np.hstack([ids, found]), k)
        else:
            scores[:, :width], ids[:, :width] = near, found
    return scores, ids


def best_of(scores: FloatArray, ids: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    """(queries, k) best of (queries, any) candidates, sorted as `top_k` sorts them; an id of -1 is no candidate."""
    best = BestK(len(ids), k)
    query, place = np.nonzero(ids >= 0)
    best.offer_pairs(query, ids[query, place], scores[query, place])
    return best.result()


def _row_numbers(panel: ArrayLike, rows: int) -> IntArray:
    numbers = np.asarray(panel)
    if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
        raise ShapeError(f"panel: found {numbers.dtype} of shape {numbers.shape}, expected a list of row numbers.")
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < rows:
        raise ShapeError(f"panel: found rows {numbers.min()} to {numbers.max()}, expected numbers below {rows}.")
    return numbers.astype(np.int64)
