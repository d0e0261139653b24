"""Compiled counting of what stands before a positive. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled

Integers = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Parts = NDArray[np.int32]

_CHUNK = 128  # entries counted in wide registers before anything is looked at one by one
_FEW = 16  # entries of a chunk, likewise
_LANES = 8


@compiled
def dot(a: Floats, b: Floats) -> Any:
    """Inner product, summed in float64 in one order whatever the processor, rounded to float32; never -0."""
    dimensions = len(a)
    whole = dimensions // _LANES * _LANES
    sums = np.zeros(_LANES)
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            sums[lane] += np.float64(a[start + lane]) * np.float64(b[start + lane])
    rest = 0.0
    for place in range(whole, dimensions):
        rest += np.float64(a[place]) * np.float64(b[place])
    total = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]))
    return np.float32(total + rest) + np.float32(0.0)


@compiled
def dots(left: Floats, right: Floats, left_rows: Integers, right_rows: Integers, scores: Floats) -> None:
    """`dot` of some pairs of rows, written to `scores`."""
    for pair in range(len(scores)):
        scores[pair] = dot(left[left_rows[pair]], right[right_rows[pair]])


@compiled
def count_in_rows(
    strip: NDArray[Any],
    first: int,
    starts: Integers,
    entries: Integers,
    query_part: Parts,
    entry_part: Parts,
    ranks: Integers,
) -> None:
    """Ranks of all positives of some queries, whose scores are all there.

    Args:
        strip: (rows, gallery) scores of the queries `first`, `first + 1`, ...
        starts, entries: positives of all queries.
        query_part, entry_part: of all queries and of all entries; entries of another part are passed over. Empty where
            there are no parts.
        ranks: (pairs,) to be written for these queries.
    """
    rows, gallery = strip.shape
    for i in range(rows):
        row = strip[i]
        for pair in range(starts[first + i], starts[first + i + 1]):
            entry = entries[pair]
            score = row[entry]
            before = 0
            if len(entry_part):
                part = query_part[first + i]
                for j in range(entry):
                    before += (entry_part[j] == part) & (row[j] >= score)
                for j in range(entry + 1, gallery):
                    before += (entry_part[j] == part) & (row[j] > score)
            else:
                for j in range(entry):
                    before += row[j] >= score
                for j in range(entry + 1, gallery):
                    before += row[j] > score
            ranks[pair] = before


@compiled
def count_in_proposals(
    proposals: Floats,
    first: int,
    first_entry: int,
    starts: Integers,
    entries: Integers,
    scores: Floats,
    low: Floats,
    high: Floats,
    queries: Floats,
    gallery: Floats,
    query_part: Parts,
    entry_part: Parts,
    ranks: Integers,
) -> None:
    """Adds to the ranks of all positives of some queries what stands before them in one tile of the gallery.

    Args:
        proposals: (rows, columns) approximate scores of the queries from `first` with the entries from `first_entry`.
        starts, entries: positives of all queries.
        scores: (pairs,) float32, exact score of each positive.
        low, high: (pairs,) float32: what is proposed outside of them is surely below or above the score.
        queries, gallery: encodings of all queries and of all entries, for exact scores of what lies between.
        query_part, entry_part: as in `count_in_rows`.
        ranks: (pairs,) to be added to.
    """
    rows, columns = proposals.shape
    exact = np.empty(columns, np.float32)
    divided = len(entry_part) > 0
    for i in range(rows):
        row = proposals[i]
        known = False
        part = query_part[first + i] if divided else np.int32(0)
        for pair in range(starts[first + i], starts[first + i + 1]):
            score, above, below = scores[pair], high[pair], low[pair]
            before = np.int64(0)
            for start in range(0, columns, _CHUNK):
                stop = min(start + _CHUNK, columns)
                if divided:
                    parts = entry_part[first_entry + start : first_entry + stop]
                    sure, reached = _count_in_part(row[start:stop], parts, part, above, below)
                else:
                    sure, reached = _count(row[start:stop], above, below)
                before += sure
                if reached == sure:
                    continue
                if not known:
                    exact[:] = np.nan
                    known = True
                for few in range(start, stop, _FEW):
                    last = min(few + _FEW, stop)
                    some, more = _count(row[few:last], above, below)
                    if some == more:
                        continue
                    for j in range(few, last):
                        if row[j] < below or row[j] > above or (divided and entry_part[first_entry + j] != part):
                            continue
                        if np.isnan(exact[j]):
                            exact[j] = dot(queries[first + i], gallery[first_entry + j])
                        before += exact[j] > score or (exact[j] == score and first_entry + j < entries[pair])
            ranks[pair] += before


@compiled
def _count(chunk: Floats, above: Any, below: Any) -> tuple[Any, Any]:
    """How many are above the one and how many reach the other; sums as narrow as the values, for wide registers."""
    sure, reached = np.int32(0), np.int32(0)
    for place in range(len(chunk)):
        sure = np.int32(sure + np.int32(chunk[place] > above))
        reached = np.int32(reached + np.int32(chunk[place] >= below))
    return sure, reached


@compiled
def _count_in_part(chunk: Floats, parts: Parts, part: Any, above: Any, below: Any) -> tuple[Any, Any]:
    """`_count` of the entries of one part."""
    sure, reached = np.int32(0), np.int32(0)
    for place in range(len(chunk)):
        inside = np.int32(parts[place] == part)
        sure = np.int32(sure + (inside & np.int32(chunk[place] > above)))
        reached = np.int32(reached + (inside & np.int32(chunk[place] >= below)))
    return sure, reached
