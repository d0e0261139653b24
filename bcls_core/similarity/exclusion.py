"""Which rows a query must not find: itself, or everything of its own group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ShapeError
from bcls_core.similarity.measure import Groups, IntArray


@dataclass(frozen=True)
class Exclusion:
    """A group number for each row and each query; equal numbers must not meet."""

    rows: IntArray
    queries: IntArray

    def mask(self, queries: slice, rows: slice) -> NDArray[np.bool_]:
        """(queries, rows) True where the row is skipped."""
        skipped: NDArray[np.bool_] = self.queries[queries, None] == self.rows[None, rows]
        return skipped


def exclusion(
    rows: int, queries: int | None, exclude: Groups | None, exclude_queries: Groups | None
) -> Exclusion | None:
    """The exclusion that a search's arguments mean; None if every query may find every row.

    Args:
        rows: number of rows searched.
        queries: number of queries; None if the rows themselves are the queries.
        exclude: (rows,) group of each row: integers or strings. None: each row is a group of its own.
        exclude_queries: (queries,) group of each query, when there are queries and `exclude`.
    Raises:
        ShapeError: a group is missing, or there are more or fewer groups than rows or queries.
    """
    if queries is None and exclude_queries is not None:
        raise ShapeError("found exclude_queries without queries. The rows are their own queries: drop exclude_queries.")
    if (exclude is None) != (exclude_queries is None) and queries is not None:
        missing = "exclude" if exclude is None else "exclude_queries"
        raise ShapeError(
            f"{missing} is missing. Give the groups of the rows (exclude) and the queries (exclude_queries)."
        )
    if exclude is None:
        own = np.arange(rows, dtype=np.int64)
        return Exclusion(own, own) if queries is None else None
    row_groups = _groups(exclude, rows, "exclude")
    if exclude_queries is None:
        codes = _codes(row_groups)
        return Exclusion(codes, codes)
    query_groups = _groups(exclude_queries, queries or 0, "exclude_queries")
    codes = _codes(np.concatenate([row_groups, query_groups]))
    return Exclusion(codes[:rows], codes[rows:])


def _groups(groups: Groups, expected: int, what: str) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.asarray(groups)
    if array.shape != (expected,):
        raise ShapeError(f"{what}: found shape {array.shape}, expected one group for each of {expected}.")
    return array


def _codes(groups: NDArray[np.generic]) -> IntArray:
    codes: IntArray = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return codes
