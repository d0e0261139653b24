"""Compiled search for the best k rows: integer products propose, the exact cosine decides.

Importing this module loads the compiler.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled
from bcls_core.order_kernels import kth_largest
from bcls_core.similarity.exact_dot import exact_dot, fetch, widen
from bcls_core.similarity.int16_blocks import LEAST_FLOOR, block_of, lowest_bit
from bcls_core.similarity.row_kernels import COLUMNS, ROWS, SCALE, SHAPE

SHIFT = 15
"""A product fits into 16 bits without its lowest 15."""

_STEP = 1 << SHIFT
_LOW = (1 << 32) - 1

_FIRST_LOOK = 4  # panels after which floors rise for the first time
_DEVIATIONS, _SPARE = 3.5, 3  # of how many of the best are met early
_FETCHED = 6  # rows on their way from memory while one is multiplied
_FEW_OF = 4  # with fewer rows than this for each that is wanted, nothing is guessed

_block = block_of(SHAPE)


class Rows(NamedTuple):
    """Rows as the kernels read them; a *position* is a row's place in the order in which they are met.

    Attributes:
        pairs: (blocks, pairs, rows of a block) int32, two int16 values each; rounded up to whole panels by zeros.
        tails: (stops, positions rounded up) int32, at least the norm of a row's values behind each stop.
        stops: (stops,) int64 numbers of pairs, the last is all of them.
        groups: (positions,) int64, equal ones must not meet; (0,) where every row may find every other.
        order: (positions,) int32 row at each position.
        exact: (rows, dimension) fp16 bits as uint16; or float64, the high parts of long rows (`ExactRows`).
        low: (rows, dimension) float64 low parts of long rows; (0, 0) where there are none.
        norms: (rows,) float64, in the scale of `exact`.
    """

    pairs: NDArray[np.int32]
    tails: NDArray[np.int32]
    stops: NDArray[np.int64]
    groups: NDArray[np.int64]
    order: NDArray[np.int32]
    exact: NDArray[Any]
    low: NDArray[np.float64]
    norms: NDArray[np.float64]


class Candidates(NamedTuple):
    """What was found so far for each query.

    Attributes:
        ids: (queries, room) int32 rows, by row of the query.
        products: (queries, room) int16, products without their lowest bits, likewise.
        counts: (queries,) int32 places taken, likewise.
        guesses: (queries,) int32 the highest floor that was guessed, likewise.
        floors: (positions rounded up,) int32, by position of the query: lower products are not taken.
        k: how many rows are wanted.
        slack: twice the largest difference between a product and what the published score makes of it.
        total: rows that a query meets in the end; 0 if no floor is to be guessed.
    """

    ids: NDArray[np.int32]
    products: NDArray[np.int16]
    counts: NDArray[np.int32]
    guesses: NDArray[np.int32]
    floors: NDArray[np.int32]
    k: int
    slack: int
    total: int


@compiled
def sweep(
    queries: Rows,
    best: Candidates,
    rows: Rows,
    packed: NDArray[np.int32],
    column_floors: NDArray[np.int32],
    first_column: int,
    met: int,
    first: int,
    last: int,
    panel: int,
    hits: NDArray[np.int32],
) -> tuple[int, int]:
    """Products of the queries at `first` to `last` with the columns of `packed`.

    Products that are good enough for a query are taken into `best` at once, and those that are good enough for a column
    are left in `hits` for `take_columns`: so each task writes to its own queries alone.

    Args:
        packed: columns of the rows from position `first_column` on.
        column_floors: their floors; MOST_FLOOR where rows are no queries.
        met: how many rows the queries have met when all panels are done.
        panel: where to begin.
        hits: (room, 3) written: query, row (positions), product.
    Returns:
        The panel to continue with once the hits are taken (the number of panels if all are done), the number of hits.
    """
    sums = np.empty(ROWS * COLUMNS, np.int32)
    bits = np.empty(ROWS, np.uint32)
    panels, total, asked = packed.shape[0], len(rows.order), len(queries.order)
    room = len(hits) - (last - first) * COLUMNS
    floors, groups, others = best.floors, queries.groups, rows.groups
    ids, products, counts = best.ids, best.products, best.counts
    count = 0
    while panel < panels and count <= room:
        base = panel * COLUMNS
        column = first_column + base
        for row in range(first, last, ROWS):
            if not _block(
                queries.pairs, row // ROWS, queries.tails, floors,
                packed, panel, rows.tails, column, column_floors, base,
                rows.stops, sums, bits,
            ):  # fmt: skip
                continue
            for r in range(min(ROWS, asked - row)):
                query, left = row + r, bits[r]
                while left:
                    c = lowest_bit(left)
                    left &= left - np.uint32(1)
                    other = column + c
                    if other >= total:
                        continue
                    if len(others) and others[other] == groups[query]:
                        continue
                    product = sums[r * COLUMNS + c]
                    if product >= column_floors[base + c]:
                        hits[count, 0] = query
                        hits[count, 1] = other
                        hits[count, 2] = product
                        count += 1
                    if product >= floors[query]:
                        asker = queries.order[query]
                        place = counts[asker]
                        ids[asker, place] = rows.order[other]
                        products[asker, place] = product >> SHIFT
                        counts[asker] = place + 1
                        if place + 1 == ids.shape[1]:
                            _raise(queries, rows, best, query, met)
        panel += 1
        if _worth_a_look(panel, panels, met):
            for query in range(first, min(last, asked)):
                _raise(queries, rows, best, query, met)
    return panel, count


@compiled
def _worth_a_look(panel: int, panels: int, met: int) -> bool:
    """Whether all floors should rise: again and again while the first rows are met, later where an eighth came."""
    chunks = met // (panels * COLUMNS)
    if chunks <= 1 and panel >= _FIRST_LOOK and panel & (panel - 1) == 0:
        return True
    step = 1
    while chunks >= 16 * step:
        step *= 2
    return panel == panels and chunks % step == 0


@compiled
def take_columns(
    rows: Rows, best: Candidates, hits: NDArray[np.int32], count: int, first: int, last: int, met: int
) -> None:
    """Takes the queries of hits as candidates of the rows at `first` to `last`, who will then have met `met` others."""
    floors, order, ids, products, counts = best.floors, rows.order, best.ids, best.products, best.counts
    for hit in range(count):
        column, product = hits[hit, 1], hits[hit, 2]
        if first <= column < last and product >= floors[column]:
            asker = order[column]
            place = counts[asker]
            ids[asker, place] = order[hits[hit, 0]]
            products[asker, place] = product >> SHIFT
            counts[asker] = place + 1
            if place + 1 == ids.shape[1]:
                _raise(rows, rows, best, column, met)


@compiled
def raise_floors(queries: Rows, rows: Rows, best: Candidates, first: int, last: int, met: int) -> None:
    """Drops what the queries at `first` to `last`, who have met `met` rows, will hardly need."""
    for query in range(first, last):
        _raise(queries, rows, best, query, met)


@compiled
def _wanted(best: Candidates, met: int) -> int:
    """How many of the best found among `met` rows are enough.

    Of the k best of all rows, `met / total` of them are expected among those met, and hardly more than four standard
    deviations beyond: rows come in random order. Where more are, `finish` finds out.
    """
    if met >= best.total or best.k * _FEW_OF >= best.total:
        return best.k
    share = met / best.total
    expected = best.k * share
    return min(best.k, int(np.ceil(expected + _DEVIATIONS * np.sqrt(expected * (1 - share)) + _SPARE)))


@compiled
def _raise(queries: Rows, rows: Rows, best: Candidates, query: int, met: int) -> None:
    """Raises a floor to what the best found allow, and drops what is below it."""
    asker = queries.order[query]
    count, wanted = best.counts[asker], _wanted(best, met)
    if count <= wanted:
        return
    products, ids = best.products[asker], best.ids[asker]
    lowest = kth_largest(products[:count], wanted)
    floor = np.int64(lowest) * _STEP - best.slack
    if floor <= best.floors[query] and count < len(products):
        return
    least = floor >> SHIFT
    kept = 0
    for place in range(count):
        product = products[place]
        products[kept] = product
        ids[kept] = ids[place]
        kept += product >= least
    best.counts[asker] = kept
    best.floors[query] = max(floor, best.floors[query])
    if wanted < best.k:
        best.guesses[asker] = max(floor, best.guesses[asker])
    if kept > best.k + (len(products) - best.k) // 2:
        _settle(queries, rows, best, query)


@compiled
def _settle(queries: Rows, rows: Rows, best: Candidates, query: int) -> None:
    """Where too many products lie within the error: exact scores decide now which k stay."""
    asker = queries.order[query]
    keys = _ranked(queries, rows, best, asker)
    products, ids = best.products[asker], best.ids[asker]
    by_id = np.argsort(ids[: len(keys)])
    sorted_ids, old = ids[: len(keys)][by_id], products[: len(keys)].copy()
    k = min(best.k, len(keys))
    for place in range(k):
        row = _LOW - (keys[place] & _LOW)
        products[place] = old[by_id[np.searchsorted(sorted_ids, row)]]
        ids[place] = row
    best.counts[asker] = k
    score = np.float64(_score_of(keys[k - 1]))
    floor = np.int64(np.floor(score * SCALE * SCALE)) - best.slack // 2 - 1
    best.floors[query] = max(floor, best.floors[query])


@compiled
def finish(
    queries: Rows,
    rows: Rows,
    best: Candidates,
    askers: NDArray[np.int32],
    scores: NDArray[np.float32],
    ids: NDArray[np.int64],
    failed: NDArray[np.bool_],
) -> None:
    """Exact scores and ids of the best k of the queries in rows `askers`; may write over what `best` holds of them.

    A query whose guessed floor was too high has `failed`, and its result is not to be used.
    """
    for asker in askers:
        count = best.counts[asker]
        if best.guesses[asker] > LEAST_FLOOR:
            failed[asker] = count < best.k
            if count >= best.k:
                lowest = kth_largest(best.products[asker][:count], best.k)
                failed[asker] = np.int64(lowest) * _STEP - best.slack < best.guesses[asker]
        keys = _ranked(queries, rows, best, asker)
        found = min(count, best.k)
        for place in range(found):
            scores[asker, place] = _score_of(keys[place])
            ids[asker, place] = _LOW - (keys[place] & _LOW)
        scores[asker, found:] = -np.inf
        ids[asker, found:] = -1


@compiled
def _ranked(queries: Rows, rows: Rows, best: Candidates, asker: int) -> NDArray[np.int64]:
    """Keys of a query's candidates, best first: the higher score, then the lower id."""
    count = best.counts[asker]
    keys = np.empty(count, np.int64)
    asked = _doubles(queries.exact, asker)
    asked_low = _doubles(queries.low, asker) if len(queries.low) else asked[:0]
    for place in range(min(count, _FETCHED)):
        fetch(rows.exact, best.ids[asker, place])
    for place in range(count):
        if place + _FETCHED < count:
            fetch(rows.exact, best.ids[asker, place + _FETCHED])
        row = best.ids[asker, place]
        dot = exact_dot(asked, rows.exact, row)
        if len(queries.low) or len(rows.low):
            mixed, lows = 0.0, 0.0
            if len(rows.low):
                mixed += exact_dot(asked, rows.low, row)
            if len(queries.low):
                mixed += exact_dot(asked_low, rows.exact, row)
            if len(rows.low) and len(queries.low):
                lows += exact_dot(asked_low, rows.low, row)
            dot = dot + (mixed + lows)
        keys[place] = _key(np.float32(dot / (queries.norms[asker] * rows.norms[row])) + np.float32(0.0), row)
    keys.sort()
    return keys[::-1]


@compiled
def _key(score: Any, row: int) -> Any:
    bits = np.int64(np.float32(score).view(np.int32))
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) << 32) | (_LOW - row)


@compiled
def _score_of(key: int) -> Any:
    value = key >> 32
    return np.int32(value ^ ((value >> 31) & 0x7FFFFFFF)).view(np.float32)


@compiled
def _doubles(matrix: NDArray[Any], row: int) -> NDArray[np.float64]:
    values = np.empty(matrix.shape[1])
    for d in range(len(values)):
        values[d] = widen(matrix[row, d])
    return values
