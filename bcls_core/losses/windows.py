"""Sliding windows over a query's candidates in the order of their labels, and the hardest pair of each.

Positions are those among the distinct labels of the row, 0 for the highest, so tied candidates share one and no result
depends on the order of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bcls_core.compiled import over_rows
from bcls_core.losses.positions import positions_of_sorted


@dataclass(frozen=True)
class HardPairs:
    """At most one pair (j, k) per place of a (rows, places) table: j should outrank k.

    Attributes:
        winners: (rows, places) int64 columns j.
        losers: (rows, places) int64 columns k; j again where there is no pair.
    """

    winners: Tensor
    losers: Tensor

    @property
    def absent(self) -> Tensor:
        """(rows, places) bool: there is no pair."""
        return self.winners == self.losers


def hard_pairs(scores: Tensor, labels: Tensor, *, gap: float, sampling: str, window: int, stride: int) -> HardPairs:
    """The pairs that hard mining keeps, compiled on a CPU.

    `exact` and `dead-zone`: each candidate j with the best-scored k at least `window` positions below it and more than
    `gap` in label. In the order of labels these k are a suffix, the best-scored one a running maximum, so after the
    sort the cost is linear.

    `local`: windows of `window` positions, one every `stride`. The window at position a has the upper part a .. a +
    window // 2 - 1 and the lower part up to a + window - 1; of its pairs across the two with a label difference above
    `gap` the one with the largest `s_k - s_j` is kept. O(columns * window / stride) a row after the sort.

    Args:
        scores: (rows, columns) float32 or float64.
        labels: (rows, columns) float32 or float64.
        gap: >= 0, representable in the labels' dtype.
        window: >= 1, for `local` >= 2.
        stride: >= 1, of `local`.
    """
    if scores.device.type != "cpu":
        if sampling != "local":
            return beyond_dead_zone(scores, labels, gap, window)
        return in_windows(scores, labels, gap, window, stride)
    from bcls_core.losses import window_kernels  # loads a compiler: only for who needs it
    from bcls_core.order_kernels import ascending

    rows, columns = scores.shape
    s, r = scores.detach().contiguous().numpy(), labels.contiguous().numpy()
    places = len(_window_starts(columns, window, stride)) if sampling == "local" else columns
    winners, losers = (np.empty((rows, places), np.int64) for _ in range(2))
    threshold = r.dtype.type(gap)

    def search(part: slice) -> None:
        order = ascending(r[part])
        if sampling != "local":
            winners[part] = np.arange(columns)
            window_kernels.beyond_dead_zone(s[part], r[part], order, threshold, window, losers[part])
        else:
            arguments = threshold, window, stride, winners[part], losers[part]
            window_kernels.in_windows(s[part], r[part], order, *arguments)

    over_rows(search, rows, steps=rows * columns * 64)
    return HardPairs(torch.from_numpy(winners), torch.from_numpy(losers))


@torch.no_grad()
def beyond_dead_zone(scores: Tensor, labels: Tensor, gap: float, window: int) -> HardPairs:
    """`hard_pairs` of `dead-zone` in torch, for accelerators; it begins with a binary search instead of a sweep."""
    ordered, order = labels.sort(dim=1, descending=True)
    begins = _first_admissible(ordered, gap, window)
    best = _best_of_suffixes(scores.gather(1, order))
    last = scores.shape[1] - 1
    losers = order.gather(1, best.gather(1, begins.clamp(max=last)))
    return HardPairs(order, torch.where(begins <= last, losers, order))


@torch.no_grad()
def in_windows(scores: Tensor, labels: Tensor, gap: float, window: int, stride: int) -> HardPairs:
    """`hard_pairs` of `local` in torch, for accelerators."""
    columns = scores.shape[1]
    upper = window // 2
    starts = torch.tensor(_window_starts(columns, window, stride), device=scores.device)
    # Of tied candidates only the best-scored can be the worst loser, only the worst-scored the worst winner.
    by_score = scores.sort(dim=1, descending=True).indices
    ordered, order = labels.gather(1, by_score).sort(dim=1, descending=True, stable=True)
    order = by_score.gather(1, order)
    positions = positions_of_sorted(ordered)
    wanted = torch.arange(columns + window, device=scores.device).expand(len(scores), -1).contiguous()
    bounds = torch.searchsorted(positions, wanted)  # (rows, columns + window) first place of each position
    tops, bottoms = bounds[:, :-1].clamp(max=columns - 1), (bounds[:, 1:] - 1).clamp(min=0)
    exists = bounds[:, :-1] < columns
    sorted_scores = scores.gather(1, order)
    best = sorted_scores.gather(1, tops).masked_fill(~exists, -torch.inf)
    worst = sorted_scores.gather(1, bottoms)
    begins = _positions_at(positions, _first_admissible(ordered, gap, 1)).gather(1, tops)  # first admissible position

    uppers = starts[:, None] + torch.arange(upper, device=scores.device)  # (windows, upper)
    lowers = starts[:, None] + torch.arange(upper, window, device=scores.device)  # (windows, window - upper)
    suffixes, places = best[:, lowers].flip(2).cummax(2)
    suffixes, places = suffixes.flip(2), window - 1 - places.flip(2)
    skipped = (begins[:, uppers] - lowers[:, 0, None]).clamp(min=0)  # (rows, windows, upper)
    admissible = skipped < window - upper
    skipped = skipped.clamp(max=window - upper - 1)
    violations = (suffixes.gather(2, skipped) - worst[:, uppers]).masked_fill(~admissible, -torch.inf)
    violation, which = violations.max(2)
    loser = starts + places.gather(2, skipped).gather(2, which[:, :, None])[:, :, 0]
    winner = starts + which
    winners, losers = order.gather(1, bottoms.gather(1, winner)), order.gather(1, tops.gather(1, loser))
    return HardPairs(winners, torch.where(violation > -torch.inf, losers, winners))


def _window_starts(columns: int, window: int, stride: int) -> range:
    """Positions at which windows begin that can have a lower part; at least one."""
    return range(0, max(columns - window // 2, 1), stride)


def _positions_at(positions: Tensor, places: Tensor) -> Tensor:
    """Positions at places of the sorted order; one past the last place is a position that no candidate has."""
    beyond = positions.new_full((len(positions), 1), positions.shape[1])
    return torch.cat([positions, beyond], 1).gather(1, places)


def _first_admissible(ordered: Tensor, gap: float, window: int) -> Tensor:
    """Per place the first place far enough below it, by label and by position; the number of columns if there is none.

    A binary search that asks the very question the loss asks, since a boundary computed as `R - gap` would be rounded
    otherwise than the difference is.
    """
    columns = ordered.shape[1]
    found = torch.zeros(ordered.shape, dtype=torch.int64, device=ordered.device)
    for bit in reversed(range(columns.bit_length())):
        probed = found + (1 << bit)
        value = ordered.gather(1, (probed - 1).clamp(max=columns - 1))
        too_close = (probed <= columns) & ~(ordered - value > gap)
        found += too_close.long() << bit
    if window == 1:
        return found
    positions = positions_of_sorted(ordered)
    return torch.maximum(found, torch.searchsorted(positions, positions + window))


def _best_of_suffixes(scores: Tensor) -> Tensor:
    """Per place the place of the largest score from there on."""
    return scores.shape[1] - 1 - scores.flip(1).cummax(1).indices.flip(1)
