"""Compiled search of an inverted index. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled
from bcls_core.order_kernels import kth_largest

Integers = NDArray[np.int64]
Narrow = NDArray[np.int32]
Weights = NDArray[np.float32]
Penalties = NDArray[np.float64]

_EXCLUDED = np.float32(-1e30)
_NOTHING = np.float32(1e-30)  # a k-th proposal below it: perhaps fewer than k rows share anything with the query
LOW = np.int64(2**32 - 1)
EMPTY = np.int64(-(2**63))
_WHOLE = 4.0  # the sum of products behind a similarity of 1


@compiled
def select(
    indptr: Integers,
    indices: Narrow,
    data: Weights,
    order: Integers,
    rank: Narrow,
    to: Integers,
    columns: Narrow,
    weights: Weights,
) -> None:
    """Cells of the rows `order` whose column has a rank, renumbered by it; nothing is written where `columns` is empty.

    Args:
        rank: (columns,) new number, -1 for columns to be dropped.
        to: (rows + 1,) to be written: where each row's cells end.
        columns, weights: to be written.
    """
    place = 0
    for row in range(len(order)):
        for cell in range(indptr[order[row]], indptr[order[row] + 1]):
            column = rank[indices[cell]]
            if column >= 0:
                if len(columns):
                    columns[place] = column
                    weights[place] = data[cell]
                place += 1
        to[row + 1] = place


@compiled
def invert(ends: Integers, columns: Narrow, weights: Weights, starts: Integers, rows: Narrow, values: Weights) -> None:
    """Cells by column, in each by row.

    Args:
        ends: (rows + 1,) where each row's cells end.
        starts: (columns + 1,) where each column's cells begin.
        rows, values: to be written.
    """
    place = starts[:-1].copy()
    for row in range(len(ends) - 1):
        for cell in range(ends[row], ends[row + 1]):
            column = columns[cell]
            rows[place[column]] = row
            values[place[column]] = weights[cell]
            place[column] += 1


@compiled
def norms_of(ends: Integers, columns: Narrow, weights: Weights, frequent: int, norms: Weights) -> None:
    """The norm of each row's cells in the columns below `frequent`, written to `norms`."""
    for row in range(len(norms)):
        squares = 0.0
        for cell in range(ends[row], ends[row + 1]):
            if columns[cell] < frequent:
                squares += np.float64(weights[cell]) ** 2
        norms[row] = np.sqrt(squares)


@compiled
def best_of_queries(
    queries: tuple[Integers, Narrow, Weights, Integers, Integers],
    first: int,
    index: tuple[Integers, Narrow, Weights, Integers, Narrow, Weights],
    frequent: tuple[int, Weights, Weights],
    layout: tuple[Integers, Integers, Integers, Integers, Integers],
    groups: tuple[Integers, Integers],
    penalties: Penalties,
    many: int,
    best: Integers,
) -> None:
    """The best k rows of the queries `first`, `first + 1`, ..., as many as `best` has rows.

    Rare columns are added up in float32 for all rows. What the frequent columns can still add to a row is at most the
    product of two norms (Cauchy-Schwarz), so only rows whose sum comes that close to the k-th sum can be among the
    best. Those are scored in full, in float64, where sums are exact.

    Args:
        queries: cells (ends, columns, weights), lengths and groups of all queries; group -1 finds every row.
        index: cells of the rows in the order of the index, and cells of the columns, most frequent columns first.
        frequent: how many columns are frequent, the norm of each row's cells of them, and its maximum in each block.
        layout: where blocks of rows of equal length begin, with the end; the length in each block; the length of each
            row; the published number of each row; the row of each published number.
        groups: where each group's rows begin, and the rows by group.
        penalties: as of `TfidfSimilarity`.
        many: candidates beyond which the frequent columns are added up after all; no influence on the result.
        best: (queries, k) to be written, in no order: integers whose order is "higher score, then lower number", with
            the score's bits above and `LOW` less the number below; `EMPTY` where there are no more rows.
    """
    ends, query_columns, query_weights, query_lengths, query_groups = queries
    row_ends, row_columns, row_weights, starts, posted, posted_weights = index
    frequent_columns, norms, block_norms = frequent
    edges, block_lengths, row_lengths, numbers, row_of = layout
    group_starts, members = groups
    k = best.shape[1]
    sums = np.zeros(len(norms), np.float32)
    dense = np.zeros(len(starts) - 1, np.float32)
    factors = np.ones(len(block_lengths), np.float32)
    found = np.empty(len(norms), np.int32)
    for i in range(len(best)):
        query = first + i
        columns = query_columns[ends[query] : ends[query + 1]]
        weights = query_weights[ends[query] : ends[query + 1]]
        length = query_lengths[query]
        if len(penalties) > 1:
            for block in range(len(factors)):
                factors[block] = _penalty(length, block_lengths[block], penalties)
        sums[:] = 0
        squares = 0.0
        for cell in range(len(columns)):
            column, weight = columns[cell], weights[cell]
            dense[column] = weight
            if column < frequent_columns:
                squares += np.float64(weight) ** 2
            else:
                _add(
                    weight,
                    posted[starts[column] : starts[column + 1]],
                    posted_weights[starts[column] : starts[column + 1]],
                    sums,
                )
        if query_groups[query] >= 0:
            for place in range(group_starts[query_groups[query]], group_starts[query_groups[query] + 1]):
                sums[members[place]] = _EXCLUDED
        # Twice the bound of a float32 sum of so many products (Higham 2002, section 3.1), and room for what is rounded
        # between sum and score.
        slack = np.float32((len(columns) + 16) * 2.0**-23)
        rest = np.float32(np.sqrt(squares) * (1 + 2.0**-20))
        kth, count = _near(k, sums, rest, slack, norms, block_norms, edges, factors, found)
        if rest > 0 and (kth < _NOTHING or count > many):
            for cell in range(len(columns)):
                column = columns[cell]
                if column < frequent_columns:
                    _add(
                        weights[cell],
                        posted[starts[column] : starts[column + 1]],
                        posted_weights[starts[column] : starts[column + 1]],
                        sums,
                    )
            rest = np.float32(0)
            kth, count = _near(k, sums, rest, slack, norms, block_norms, edges, factors, found)
        keys = np.empty(count + k, np.int64)
        if kth < _NOTHING:
            known = 0
            for place in range(count):
                row = found[place]
                cells = slice(row_ends[row], row_ends[row + 1])
                factor = _penalty(length, row_lengths[row], penalties)
                keys[known] = _key(_score(dense, row_columns[cells], row_weights[cells], factor), numbers[row])
                known += 1
            most = known + k
            for number in range(len(row_of)):
                if known == most:
                    break
                if sums[row_of[number]] == 0:
                    keys[known] = _key(np.float32(0), number)
                    known += 1
        else:
            partial = np.empty(count, np.float32)
            for place in range(count):
                row = found[place]
                factor = _penalty(length, row_lengths[row], penalties)
                partial[place] = np.float32(min(np.float64(sums[row]), _WHOLE) * factor)
            middle = kth_largest(partial, k)
            known = 0
            bound = np.float32(0)
            for sure in (True, False):  # first the k whose sums are highest: their k-th score leaves few of the others
                for place in range(count):
                    if (partial[place] >= middle) != sure:
                        continue
                    row = found[place]
                    factor = _penalty(length, row_lengths[row], penalties)
                    if (sums[row] + rest * norms[row]) * np.float32(factor) >= bound:
                        cells = slice(row_ends[row], row_ends[row + 1])
                        keys[known] = _key(_score(dense, row_columns[cells], row_weights[cells], factor), numbers[row])
                        known += 1
                if sure:
                    kth_score = _value(kth_largest(keys[:known], k))
                    bound = np.float32(_WHOLE) * kth_score * (np.float32(1) - np.float32(4) * slack)
        last = kth_largest(keys[:known], k) if known > k else EMPTY
        best[i] = EMPTY
        place = 0
        for key in keys[:known]:
            if key >= last:
                best[i, place] = key
                place += 1
        for cell in range(len(columns)):
            dense[columns[cell]] = 0


@compiled
def _add(weight: Any, rows: Narrow, weights: Weights, sums: Weights) -> None:
    for place in range(len(rows)):
        sums[rows[place]] += weight * weights[place]


@compiled
def _near(
    k: int,
    sums: Weights,
    rest: Any,
    slack: Any,
    norms: Weights,
    block_norms: Weights,
    edges: Integers,
    factors: Weights,
    found: Narrow,
) -> tuple[Any, int]:
    """A proposal that k rows reach, and how many rows can come up to it, which are written to `found`.

    Where it is next to nothing these are all rows that share a column with the query.

    Args:
        rest: what the columns not added up can add, for a row of norm 1.
        slack: relative error of `sums`.
    """
    bits = sums.view(np.int32)  # compare as the sums do, and integers take wide registers
    tops = np.empty(len(factors), np.float32)
    top_bits = tops.view(np.int32)
    for block in range(len(factors)):
        part = bits[edges[block] : edges[block + 1]]
        top = np.int32(-(2**31))
        for place in range(len(part)):
            top = max(top, part[place])
        top_bits[block] = top
    kth = np.float32(0)
    if k <= len(factors):
        proposals = np.empty(len(factors), np.float32)
        for block in range(len(factors)):
            proposals[block] = min(tops[block], np.float32(_WHOLE)) * factors[block]
        kth = kth_largest(proposals, k) * (np.float32(1) - np.float32(4) * slack)
    count = 0
    for block in range(len(factors)):
        if kth < _NOTHING:
            for row in range(edges[block], edges[block + 1]):
                if sums[row] > 0:
                    found[count] = row
                    count += 1
        elif (tops[block] + rest * block_norms[block]) * factors[block] >= kth:
            for row in range(edges[block], edges[block + 1]):
                if (sums[row] + rest * norms[row]) * factors[block] >= kth:
                    found[count] = row
                    count += 1
    return kth, count


@compiled
def _score(dense: Weights, columns: Narrow, weights: Weights, penalty: Any) -> Any:
    """The published score of the query that is spread out in `dense`."""
    total = 0.0
    for cell in range(len(columns)):
        total += np.float64(dense[columns[cell]]) * np.float64(weights[cell])
    return np.float32(min(total / _WHOLE, 1.0) * penalty)


@compiled
def _penalty(a: Any, b: Any, penalties: Penalties) -> Any:
    return penalties[min(abs(a - b), len(penalties) - 1)]


@compiled
def _key(score: Any, number: Any) -> Any:
    """An integer whose order is "higher score, then lower number"; the score is at least 0."""
    return (np.int64(np.float32(score).view(np.int32)) << 32) | (LOW - number)


@compiled
def _value(key: Any) -> Any:
    """The score in a key."""
    return np.int32(key >> 32).view(np.float32)
