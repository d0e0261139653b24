"""Compiled search for the hardest pairs; definitions and results as in `windows`. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcls_core.compiled import compiled
from bcls_core.order_kernels import Floats, Integers, Orders


@compiled
def beyond_dead_zone(scores: Floats, labels: Floats, by_label: Orders, gap: Any, window: int, losers: Integers) -> None:
    """Each candidate's best-scored one far enough below it, or itself; linear.

    Args:
        scores, labels: (rows, columns).
        by_label: orders of `labels`.
        gap: in the labels' dtype.
        losers: (rows, columns) to be written.
    """
    rows, columns = scores.shape
    distinct = np.empty(columns, np.int32)
    for i in range(rows):
        s, r, order = scores[i], labels[i], by_label[i]
        below, best = 0, -1
        for place in range(columns):
            j = order[place]
            distinct[place] = 0 if place == 0 else distinct[place - 1] + np.int32(r[j] != r[order[place - 1]])
            while r[j] - r[order[below]] > gap and distinct[place] - distinct[below] >= window:
                if best < 0 or s[order[below]] >= s[best]:
                    best = order[below]
                below += 1
            losers[i, j] = j if best < 0 else best


@compiled
def in_windows(
    scores: Floats,
    labels: Floats,
    by_label: Orders,
    gap: Any,
    window: int,
    stride: int,
    winners: Integers,
    losers: Integers,
) -> None:
    """Each window's worst violation, or twice column 0; O(columns * window / stride) a row.

    Args:
        winners, losers: (rows, windows) to be written.
    """
    rows, columns = scores.shape
    upper = window // 2
    best, worst = np.empty(columns, np.int64), np.empty(columns, np.int64)  # of each position's candidates, by score
    first = np.empty(columns, np.int64)  # position from which labels are more than the gap below
    suffix = np.empty(window - upper, np.int64)
    for i in range(rows):
        s, r, order = scores[i], labels[i], by_label[i]
        positions = 0
        for place in range(columns - 1, -1, -1):
            k = order[place]
            if place == columns - 1 or r[k] != r[order[place + 1]]:
                best[positions] = worst[positions] = k
                positions += 1
            elif s[k] > s[best[positions - 1]]:
                best[positions - 1] = k
            elif s[k] < s[worst[positions - 1]]:
                worst[positions - 1] = k
        below = 0
        for position in range(positions):
            while below < positions and not r[best[position]] - r[best[below]] > gap:
                below += 1
            first[position] = below
        for index in range(winners.shape[1]):
            start = index * stride
            middle, stop = start + upper, min(start + window, positions)
            winner = loser = 0
            for q in range(stop - 1, middle - 1, -1):
                k = best[q]
                if q < stop - 1 and s[suffix[q + 1 - middle]] > s[k]:
                    k = suffix[q + 1 - middle]
                suffix[q - middle] = k
            for p in range(start, min(middle, positions)):
                q = max(middle, first[p])
                if q < stop:
                    j, k = worst[p], suffix[q - middle]
                    if winner == loser or s[k] - s[j] > s[loser] - s[winner]:
                        winner, loser = j, k
            winners[i, index], losers[i, index] = winner, loser
