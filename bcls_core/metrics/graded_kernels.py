"""Compiled agreement of a row's scores with its labels. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled

Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

_SHORT = 16  # entries that are sorted by insertion before runs are merged


@compiled
def agree(
    scores: Floats,
    labels: Floats,
    by_score: Integers,
    by_label: Integers,
    first: int,
    starts: Integers,
    own: Integers,
    tops: Integers,
    kendall: Floats,
    spearman: Floats,
    coherence: Floats,
    gain: Floats,
) -> None:
    """All of `graded_queries` for some queries.

    Args:
        scores, labels: (rows, gallery) of the queries `first`, `first + 1`, ...
        by_score: per row its entries from the highest score to the lowest, equal ones by index.
        by_label: the same for labels.
        starts, own: the entries that each query owns.
        tops: (cuts,) how many of the best entries a cut keeps.
        kendall, spearman: (rows,) to be written.
        coherence, gain: (rows, cuts) to be written.
    """
    rows, n = scores.shape
    level = np.empty(n, np.int32)  # of an entry: distinct labels above its own
    sequence, spare = np.empty(n, np.int32), np.empty(n, np.int32)  # levels from the highest score to the lowest
    rank = np.empty(n)  # of an entry by label, ties at their average, times two, less the mean
    owned = np.zeros(n, np.bool_)
    for i in range(rows):
        s, r, score_order, label_order = scores[i], labels[i], by_score[i], by_label[i]
        _levels_and_ranks(r, label_order, level, rank)
        for place in range(n):
            sequence[place] = level[score_order[place]]
        spearman[i] = _rank_product(s, score_order, rank)
        for cut in range(len(tops)):
            k = min(tops[cut], n)
            spare[:k] = sequence[:k]
            coherence[i, cut] = _tau_b(s, score_order, sequence[:k].copy(), spare[:k])
        kendall[i] = _tau_b(s, score_order, sequence, spare)
        for place in range(starts[first + i], starts[first + i + 1]):
            owned[own[place]] = True
        for cut in range(len(tops)):
            gain[i, cut] = _relative_gain(r, score_order, label_order, owned, tops[cut])
        for place in range(starts[first + i], starts[first + i + 1]):
            owned[own[place]] = False


@compiled
def _levels_and_ranks(values: Floats, order: Integers, level: Integers, rank: Floats) -> None:
    """Dense levels and centred ranks from the highest value."""
    n = len(values)
    start, distinct = 0, 0
    while start < n:
        stop = start + 1
        while stop < n and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in range(start, stop):
            level[order[place]] = distinct
            rank[order[place]] = start + stop - n
        distinct += 1
        start = stop


@compiled
def _rank_product(s: Floats, order: Integers, label_rank: Floats) -> float:
    """Spearman's rho: Pearson's correlation of the ranks; NaN where scores or labels are all equal."""
    n = len(s)
    product, scale, other = 0.0, 0.0, 0.0
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and s[order[stop]] == s[order[start]]:
            stop += 1
        rank = np.float64(start + stop - n)
        for place in range(start, stop):
            product += rank * label_rank[order[place]]
            other += label_rank[order[place]] * label_rank[order[place]]
        scale += rank * rank * (stop - start)
        start = stop
    if scale == 0 or other == 0:
        return np.nan
    return float(max(-1.0, min(1.0, product / np.sqrt(scale) / np.sqrt(other))))


@compiled
def _tau_b(s: Floats, order: Integers, sequence: Integers, spare: Integers) -> float:
    """Kendall's tau-b of scores in their descending order with the levels that `sequence` holds in that order.

    Knight's way (1966): where equal scores stand in the order of their levels, inversions of the sequence are the
    discordant pairs. `sequence` is sorted by this.
    """
    n = len(sequence)
    score_ties, both_ties, start = 0, 0, 0
    while start < n:
        stop = start + 1
        while stop < n and s[order[stop]] == s[order[start]]:
            stop += 1
        if stop - start > 1:
            score_ties += (stop - start) * (stop - start - 1) // 2
            _sort(sequence[start:stop], spare[start:stop])
            both_ties += _tied(sequence[start:stop])
        start = stop
    discordant = _sort(sequence, spare)
    label_ties = _tied(sequence)
    pairs = n * (n - 1) // 2
    if pairs in (score_ties, label_ties):
        return np.nan
    balance = pairs - score_ties - label_ties + both_ties - 2 * discordant
    tau = balance / np.sqrt(np.float64(pairs - score_ties)) / np.sqrt(np.float64(pairs - label_ties))
    return float(max(-1.0, min(1.0, tau)))


@compiled
def _tied(ascending: Integers) -> int:
    """Number of pairs of equal values."""
    ties, run = 0, 0
    for place in range(1, len(ascending)):
        run = run + 1 if ascending[place] == ascending[place - 1] else 0
        ties += run
    return ties


@compiled
def _sort(values: Integers, spare: Integers) -> int:
    """Sorts in place; returns the number of pairs that were in the wrong order."""
    n = len(values)
    inversions = 0
    for start in range(0, n, _SHORT):
        for place in range(start + 1, min(start + _SHORT, n)):
            value, hole = values[place], place
            while hole > start and values[hole - 1] > value:
                values[hole] = values[hole - 1]
                hole -= 1
            values[hole] = value
            inversions += place - hole
    width = _SHORT
    while width < n:
        for start in range(0, n - width, 2 * width):
            middle, stop = start + width, min(start + 2 * width, n)
            if values[middle - 1] <= values[middle]:
                continue
            spare[start:middle] = values[start:middle]
            left, right, place = start, middle, start
            while left < middle and right < stop:
                # Without a branch: which of the two comes is as good as random.
                smaller = values[right] < spare[left]
                values[place] = values[right] if smaller else spare[left]
                inversions += (middle - left) * smaller
                left += 1 - smaller
                right += 1 * smaller
                place += 1
            while left < middle:
                values[place] = spare[left]
                left += 1
                place += 1
        width *= 2
    return inversions


@compiled
def _relative_gain(r: Floats, score_order: Integers, label_order: Integers, owned: NDArray[np.bool_], k: int) -> float:
    """Labels' sum of the k best by score over that of the k best by label; NaN where the latter is not positive."""
    reached, ideal = _sum_of_first(r, score_order, owned, k), _sum_of_first(r, label_order, owned, k)
    return min(reached / ideal, 1.0) if ideal > 0 else np.nan


@compiled
def _sum_of_first(r: Floats, order: Integers, owned: NDArray[np.bool_], k: int) -> float:
    total, taken = 0.0, 0
    for place in range(len(order)):
        if taken == k:
            break
        if not owned[order[place]]:
            total += np.float64(r[order[place]])
            taken += 1
    return total
