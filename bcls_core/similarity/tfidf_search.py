"""Exact nearest sparse rows by an inverted index, on all threads. Importing it loads the compiler."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bcls_core.compiled import over_rows
from bcls_core.similarity import tfidf_kernels as kernels
from bcls_core.similarity.exclusion import Exclusion
from bcls_core.similarity.measure import FloatArray, IntArray

_FREQUENT = 8  # a column that more than one row in so many has is looked at for candidates only
_LONGEST_BLOCK = 64
_BLOCKS_FOR_EACH = 16  # blocks for each of the k rows asked for: their k-th maximum is then close to the k-th sum
_FEW = 4  # candidates for each of the k that are no reason to add up the frequent columns after all
_LEAST = 256  # candidates that are few for any k
_WIDE = 4  # columns for each cell, beyond which a table of all columns is a waste
_UP = np.float32(1 + 2.0**-20)

Cells = tuple[IntArray, NDArray[np.int32], FloatArray]
"""(rows + 1,) ends, then columns and weights, row after row."""


def search(
    queries: Any,
    rows: Any,
    query_lengths: IntArray,
    lengths: IntArray,
    penalties: NDArray[np.float64],
    k: int,
    skipped: Exclusion | None,
    of_themselves: bool,
    queries_at_once: int,
) -> tuple[FloatArray, IntArray]:
    """The best k rows of each query by `min(product / 4, 1)` times the penalty, rounded to fp32.

    Args:
        queries, rows: CSR arrays over the same columns, weights above 0.
        query_lengths, lengths: (queries,) and (rows,).
        penalties: factor for lengths that differ by 0, 1, ...; the last for whatever differs more.
        k: at least 1.
        skipped: groups that must not meet.
        of_themselves: each row asks, and does not find itself.
        queries_at_once: of one thread's task.
    Returns:
        scores and ids, (queries, k), as `bcls_core.similarity.top_k`.
    """
    if rows.shape[1] > _WIDE * (len(rows.indices) + len(queries.indices)):
        queries, rows = _narrowed(queries, rows)
    scores = np.empty((queries.shape[0], k), dtype=np.float32)
    ids = np.empty((queries.shape[0], k), dtype=np.int64)
    if not queries.shape[0]:
        return scores, ids
    order = np.argsort(lengths, kind="stable")
    row_of = np.empty_like(order)
    row_of[order] = np.arange(len(order))
    rank, counts = _ranks(queries, rows, of_themselves)
    own = _selected(queries, np.arange(queries.shape[0]), rank)
    forward = _selected(rows, order, rank)
    inverted = _inverted(forward, counts)
    edges = _edges(lengths[order], max(1, min(_LONGEST_BLOCK, len(order) // (_BLOCKS_FOR_EACH * k))))
    frequent = int(np.searchsorted(-counts, -(len(order) // _FREQUENT)))
    norms = _norms(forward, frequent)
    block_norms = np.maximum.reduceat(norms, edges[:-1]) if len(norms) else norms
    lengths_in_order = lengths[order]
    layout = edges, lengths_in_order[edges[:-1]], lengths_in_order, order, row_of
    query_groups, *groups = _groups(skipped, queries.shape[0], row_of)

    def task(part: slice) -> None:
        best = np.empty((len(scores[part]), k), dtype=np.int64)
        kernels.best_of_queries(
            (*own, query_lengths, query_groups),
            part.start,
            (*forward, *inverted),
            (frequent, norms, block_norms),
            layout,
            tuple(groups),
            penalties,
            max(_FEW * k, _LEAST),
            best,
        )
        best.sort(axis=1)
        best = best[:, ::-1]
        there = best != kernels.EMPTY
        scores[part] = np.where(there, (best >> 32).astype(np.int32).view(np.float32), np.float32(-np.inf))
        ids[part] = np.where(there, kernels.LOW - (best & kernels.LOW), -1)

    over_rows(task, len(scores), len(scores) * len(order), queries_at_once)
    return scores, ids


def _narrowed(a: Any, b: Any) -> tuple[Any, Any]:
    """Both over the columns that either uses."""
    used = np.unique(np.concatenate([a.indices, b.indices]))
    places = [np.searchsorted(used, rows.indices).astype(np.int32) for rows in (a, b)]
    narrow = [
        sparse.csr_array((rows.data, place, rows.indptr), shape=(rows.shape[0], len(used)))
        for rows, place in zip((a, b), places, strict=True)
    ]
    return narrow[0], narrow[1]


def _ranks(queries: Any, rows: Any, of_themselves: bool) -> tuple[NDArray[np.int32], IntArray]:
    """New numbers of the columns that both sides have, by falling number of rows, -1 for the others; and those numbers.

    A column that one row alone has joins nothing where rows ask for other rows.
    """
    width = rows.shape[1]
    in_rows = np.bincount(rows.indices, minlength=width)
    shared = in_rows > (1 if of_themselves else 0)
    if not of_themselves:
        shared &= np.bincount(queries.indices, minlength=width) > 0
    columns = np.flatnonzero(shared)
    columns = columns[np.argsort(-in_rows[columns], kind="stable")]
    rank = np.full(width, -1, dtype=np.int32)
    rank[columns] = np.arange(len(columns), dtype=np.int32)
    return rank, in_rows[columns]


def _selected(rows: Any, order: IntArray, rank: NDArray[np.int32]) -> Cells:
    """Cells of the rows `order` in columns with a rank."""
    ends = np.zeros(len(order) + 1, dtype=np.int64)
    source = (rows.indptr.astype(np.int64), rows.indices.astype(np.int32, copy=False), rows.data, order, rank, ends)
    kernels.select(*source, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
    columns, weights = np.empty(ends[-1], dtype=np.int32), np.empty(ends[-1], dtype=np.float32)
    kernels.select(*source, columns, weights)
    return ends, columns, weights


def _inverted(forward: Cells, counts: IntArray) -> Cells:
    starts = np.concatenate([[0], np.cumsum(counts)])
    posted, weights = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.float32)
    kernels.invert(*forward, starts, posted, weights)
    return starts, posted, weights


def _edges(lengths: IntArray, block: int) -> IntArray:
    """Where blocks of at most `block` rows of one length begin; `lengths` ascend."""
    if not len(lengths):
        return np.zeros(1, dtype=np.int64)
    change = np.flatnonzero(np.diff(lengths)) + 1
    runs = np.concatenate([[0], change, [len(lengths)]])
    parts = [np.arange(start, stop, block) for start, stop in pairwise(runs.tolist())]
    return np.concatenate([*parts, [len(lengths)]])


def _norms(forward: Cells, frequent: int) -> FloatArray:
    """(rows,) norm of each row's cells in the frequent columns, rounded up."""
    norms = np.empty(len(forward[0]) - 1, dtype=np.float32)
    kernels.norms_of(*forward, frequent, norms)
    rounded_up: FloatArray = norms * _UP
    return rounded_up


def _groups(skipped: Exclusion | None, queries: int, row_of: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Group of each query, -1 if it may find every row; where the rows of each group begin; rows by group."""
    if skipped is None:
        return np.full(queries, -1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int64)
    size = int(max(skipped.rows.max(initial=-1), skipped.queries.max(initial=-1))) + 1
    starts = np.concatenate([[0], np.cumsum(np.bincount(skipped.rows, minlength=size))])
    return skipped.queries, starts, row_of[np.argsort(skipped.rows, kind="stable")]
