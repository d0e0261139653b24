"""Compiled code that counts violated pairs of a row. Importing it loads the compiler.

Both forms take a row's candidates in the order of labels, where those that j must outrank are the first few. They write
the same bits: integer counts, and values summed in that order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled
from bcls_core.order_kernels import Floats, Integers, Orders

Words = NDArray[np.uint64]

_LANES = 32  # of a chunk without a remainder, whatever the processor's registers hold


@compiled
def compare(
    scores: Floats,
    labels: Floats,
    by_label: Orders,
    gap: Any,
    window: int,
    lowest: Any,
    sums: Floats,
    pairs: Integers,
    slopes: Floats,
) -> None:
    """Every candidate with all that it must outrank, O(columns^2) a row, in the processor's wide registers.

    Args:
        scores, labels: (rows, columns).
        by_label: orders of `labels`.
        gap: pairs (j, k) with `R_j - R_k > gap` are ordered; in the labels' dtype.
        window: k must be so many of the row's distinct labels below j.
        lowest: an ordered pair with `s_k - s_j > lowest` is violated; in the scores' dtype.
        sums, pairs: (rows,) to be written: `s_k - s_j - lowest` over the violated pairs, number of ordered pairs.
        slopes: (rows, columns) to be written: violated pairs in which a candidate is k, less those in which it is j.
    """
    rows, columns = scores.shape
    s, r = np.empty(columns, scores.dtype), np.empty(columns, labels.dtype)  # in the order of labels
    level = np.empty(columns, np.int32)
    chunks = (columns + _LANES - 1) // _LANES * _LANES
    seen, slope = np.empty(chunks, scores.dtype), np.empty(chunks, np.int32)
    for i in range(rows):
        order = by_label[i]
        _take(scores[i], order, s)
        _take(labels[i], order, r)
        _levels(r, level)
        seen[:] = -np.inf  # violates nothing: a chunk may be compared to its end
        slope[:] = 0
        inside, ordered, violations = 0, 0, 0
        for place in range(columns):
            while _outranks(r, level, place, inside, gap, window):
                seen[inside] = s[inside]
                inside += 1
            ordered += inside
            own = s[place]
            lost = np.int32(0)
            for k in range((inside + _LANES - 1) // _LANES * _LANES):
                wrong = np.int32(seen[k] - own > lowest)
                lost = np.int32(lost + wrong)
                slope[k] = np.int32(slope[k] + wrong)
            slope[place] -= lost
            violations += int(lost)
        pairs[i] = ordered
        sums[i] = _value(s, slope) - np.float64(lowest) * violations
        _put_back(slope, order, slopes[i])


@compiled
def sweep(
    scores: Floats,
    labels: Floats,
    by_label: Orders,
    by_score: Orders,
    gap: Any,
    window: int,
    lowest: Any,
    sums: Floats,
    pairs: Integers,
    slopes: Floats,
) -> None:
    """The same by counting: in the order of labels candidates are put into a bit set over score ranks, whose bits
    beyond a rank are counted. O(columns^2 / 512) a row, for a running count per machine word.

    Further args:
        by_score: orders of `scores`.
    """
    rows, columns = scores.shape
    words = (columns + 63) // 64
    bits = np.empty(words, np.uint64)  # bit p: the candidate of score rank p is in
    lower = np.empty(words, np.int32)  # per word the candidates in any lower word
    s, r = np.empty(columns, scores.dtype), np.empty(columns, labels.dtype)  # in the order of labels
    ascending = np.empty(columns, scores.dtype)  # scores
    level, slope = np.empty(columns, np.int32), np.empty(columns, np.int32)
    rank = np.empty(columns, np.int32)  # of a column
    edges = np.empty(columns, np.int32)  # per rank the one where its violations begin
    for i in range(rows):
        order = by_label[i]
        _take(scores[i], order, s)
        _take(labels[i], order, r)
        _levels(r, level)
        ranked = by_score[i]
        _take(scores[i], ranked, ascending)
        for place in range(columns):
            rank[ranked[place]] = place

        edge = 0
        for place in range(columns):
            while edge < columns and not ascending[edge] - ascending[place] > lowest:
                edge += 1
            edges[place] = edge
        _clear(bits, lower)
        inside, ordered, violations = 0, 0, 0
        for place in range(columns):
            while _outranks(r, level, place, inside, gap, window):
                _put(bits, lower, rank[order[inside]])
                inside += 1
            ordered += inside
            lost = inside - _count(bits, lower, edges[rank[order[place]]], columns, inside)
            slope[place] = -lost
            violations += lost

        edge = 0
        for place in range(columns):
            while edge < columns and ascending[place] - ascending[edge] > lowest:
                edge += 1
            edges[place] = edge
        _clear(bits, lower)
        top = columns - 1
        for place in range(columns - 1, -1, -1):
            while _outranks(r, level, top, place, gap, window):
                _put(bits, lower, rank[order[top]])
                top -= 1
            slope[place] += _count(bits, lower, edges[rank[order[place]]], columns, columns - 1 - top)
        pairs[i] = ordered
        sums[i] = _value(s, slope) - np.float64(lowest) * violations
        _put_back(slope, order, slopes[i])


@compiled
def _take(values: Floats, order: Orders, taken: Floats) -> None:
    for place in range(len(order)):
        taken[place] = values[order[place]]


@compiled
def _put_back(slope: Integers, order: Orders, slopes: Floats) -> None:
    for place in range(len(order)):
        slopes[order[place]] = slope[place]


@compiled
def _levels(r: Floats, level: Integers) -> None:
    """Per place of the ascending labels the number of distinct lower ones."""
    level[0] = 0
    for place in range(1, len(r)):
        level[place] = level[place - 1] + np.int32(r[place] != r[place - 1])


@compiled
def _outranks(r: Floats, level: Integers, j: int, k: int, gap: Any, window: int) -> bool:
    """By places in the ascending labels; False where j is k."""
    return r[j] - r[k] > gap and (window == 1 or level[j] - level[k] >= window)


@compiled
def _value(s: Floats, slope: Integers) -> float:
    """Sum of score times slope. Slopes add up to zero, so scores are taken from the first one: no digits are lost to a
    common offset; and scores so large that the sum overflows are scaled: it becomes inf, never NaN."""
    largest = 0.0
    for place in range(len(s)):
        largest = max(largest, abs(np.float64(s[place])))
    scale = 2.0**-64 if largest > 1e280 else 1.0
    total = 0.0
    for place in range(len(s)):
        total += (np.float64(s[place]) * scale - np.float64(s[0]) * scale) * slope[place]
    return total / scale


@compiled
def _clear(bits: Words, lower: Integers) -> None:
    bits[:] = 0
    lower[:] = 0


@compiled
def _put(bits: Words, lower: Integers, rank: Any) -> None:
    word = np.int32(rank >> 6)
    bits[word] |= np.uint64(1) << np.uint64(rank & 63)
    for other in range(np.int32(len(lower))):  # all of them: without a branch this is a few wide instructions
        lower[other] += np.int32(other > word)


@compiled
def _count(bits: Words, lower: Integers, rank: Any, columns: int, inside: int) -> int:
    """Of the candidates that are in those of a lower rank."""
    if rank == columns:
        return inside
    word = rank >> 6
    n = bits[word] & ((np.uint64(1) << np.uint64(rank & 63)) - np.uint64(1))
    n -= (n >> np.uint64(1)) & np.uint64(0x5555555555555555)
    n = (n & np.uint64(0x3333333333333333)) + ((n >> np.uint64(2)) & np.uint64(0x3333333333333333))
    n = (n + (n >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(lower[word]) + int((n * np.uint64(0x0101010101010101)) >> np.uint64(56))
