"""Compiled code that counts violated pairs of a row. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.losses.compiled import compiled

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Words = NDArray[np.uint64]


@compiled
def compare_all(
    scores: Floats, labels: Floats, gap: Any, lowest: Any, won: Integers, lost: Integers, pairs: Integers
) -> None:
    """Every candidate with every other, O(columns^2) a row, in the processor's wide registers.

    Args:
        scores, labels: (rows, columns).
        gap: pairs (j, k) with `R_j - R_k > gap` are ordered; in the labels' dtype.
        lowest: an ordered pair with `s_k - s_j > lowest` is violated; in the scores' dtype.
        won, lost: (rows, columns) zeros; get the violated pairs in which a candidate is k, and j.
        pairs: (rows,) zeros; get the number of ordered pairs.
    """
    rows, columns = scores.shape
    for i in range(rows):
        s, r, up = scores[i], labels[i], won[i]
        for j in range(columns):
            s_j, r_j = s[j], r[j]
            violated, ordered = np.int32(0), np.int32(0)
            for k in range(columns):
                above = np.int32(r_j - r[k] > gap)
                wrong = above & np.int32(s[k] - s_j > lowest)
                ordered += above
                violated += wrong
                up[k] += wrong
            lost[i, j] = violated
            pairs[i] += ordered


@compiled
def sweep(
    scores: Floats,
    labels: Floats,
    by_label: Integers,
    by_score: Integers,
    gap: Any,
    window: int,
    lowest: Any,
    won: Integers,
    lost: Integers,
    pairs: Integers,
) -> None:
    """The same in the order of labels: candidates far enough off are put into a bit set over score ranks, whose bits
    beyond a rank are counted. O(columns^2 / 512) a row, for a running count per machine word.

    Further args:
        by_label, by_score: (rows, columns) indices that sort labels and scores, ascending.
        window: k must be so many of the row's distinct labels below j.
    """
    rows, columns = scores.shape
    words = (columns + 63) // 64
    bits = np.empty(words, np.uint64)  # bit p: the candidate of score rank p is in
    below = np.empty(words, np.int32)  # per word the candidates in any lower word
    rank = np.empty(columns, np.int32)
    distinct = np.empty(columns, np.int32)  # lower labels, per place in the order of labels
    edges = np.empty(columns, np.int32)  # the score rank where a candidate's violations begin
    for i in range(rows):
        s, r, label_order, score_order = scores[i], labels[i], by_label[i], by_score[i]
        distinct[0] = 0
        for place in range(columns):
            rank[score_order[place]] = place
            if place:
                differs = r[label_order[place]] != r[label_order[place - 1]]
                distinct[place] = distinct[place - 1] + np.int32(differs)

        edge = 0
        for place in range(columns):
            j = score_order[place]
            while edge < columns and not s[score_order[edge]] - s[j] > lowest:
                edge += 1
            edges[j] = edge
        _clear(bits, below)
        inside = 0
        for place in range(columns):
            j = label_order[place]
            while (
                inside < columns
                and r[j] - r[label_order[inside]] > gap
                and distinct[place] - distinct[inside] >= window
            ):
                _put(bits, below, rank[label_order[inside]])
                inside += 1
            pairs[i] += inside
            lost[i, j] = inside - _count(bits, below, edges[j], columns, inside)

        edge = 0
        for place in range(columns):
            k = score_order[place]
            while edge < columns and s[k] - s[score_order[edge]] > lowest:
                edge += 1
            edges[k] = edge
        _clear(bits, below)
        inside = 0
        for place in range(columns - 1, -1, -1):
            k = label_order[place]
            while (
                inside < columns
                and r[label_order[columns - 1 - inside]] - r[k] > gap
                and distinct[columns - 1 - inside] - distinct[place] >= window
            ):
                _put(bits, below, rank[label_order[columns - 1 - inside]])
                inside += 1
            won[i, k] = _count(bits, below, edges[k], columns, inside)


@compiled
def _clear(bits: Words, below: Integers) -> None:
    bits[:] = 0
    below[:] = 0


@compiled
def _put(bits: Words, below: Integers, rank: Any) -> None:
    word = np.int32(rank >> 6)
    bits[word] |= np.uint64(1) << np.uint64(rank & 63)
    for other in range(np.int32(len(below))):  # all of them: without a branch this is a few wide instructions
        below[other] += np.int32(other > word)


@compiled
def _count(bits: Words, below: Integers, rank: Any, columns: int, inside: int) -> int:
    """Of the candidates that are in those of a lower rank."""
    if rank == columns:
        return inside
    word = rank >> 6
    n = bits[word] & ((np.uint64(1) << np.uint64(rank & 63)) - np.uint64(1))
    n -= (n >> np.uint64(1)) & np.uint64(0x5555555555555555)
    n = (n & np.uint64(0x3333333333333333)) + ((n >> np.uint64(2)) & np.uint64(0x3333333333333333))
    n = (n + (n >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(below[word]) + int((n * np.uint64(0x0101010101010101)) >> np.uint64(56))
