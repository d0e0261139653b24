"""The label gap up to which two candidates count as equally relevant: a number, or a percentile of the labels."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from bcls_core.errors import ConfigError
from bcls_core.losses.checks import require_mask, require_matrix
from bcls_core.losses.directions import ALONE
from bcls_core.losses.percentile import Multiset, Numbers, percent_of, percentile
from bcls_core.workers import Workers

_FEW = 2**17  # differences that are listed at once, however few labels they come from


def resolve_gap(gap: float | str, labels: Tensor, positives: Tensor | None, workers: Workers = ALONE) -> float:
    """A gap as a number.

    Args:
        gap: a number >= 0 in label units, or "p60" = `gap_percentile(labels, 60, positives, workers)`.
        labels: (queries, gallery).
        positives: (queries, gallery) bool; the diagonal if None.
        workers: who holds the other rows of the batch; for a percentile all must call this in step.

    Raises:
        ConfigError: a negative gap, or a text that is no percentile.
    """
    if isinstance(gap, str):
        return gap_percentile(labels, percent_of("gap", gap), positives, workers)
    if not gap >= 0:
        raise ConfigError(f"gap: {gap}, expected a number >= 0: below zero equal labels would count as ordered.")
    return gap


def gap_percentile(labels: Tensor, percent: float, positives: Tensor | None = None, workers: Workers = ALONE) -> float:
    """Percentile of `|R_ij - R_ik|` over all rows i and unordered pairs j, k of columns that are no positives of i.

    Interpolates linearly between order statistics, as `numpy.percentile` does. These are exact, of differences rounded
    in the labels' own dtype, though the O(B^3) differences are never listed: in sorted rows those up to a threshold
    are counted in O(B^2 log B) time, and a few thresholds leave O(B^2) to look at. Memory O(B^2). 0.0 where no row has
    two such columns.

    Args:
        labels: (queries, gallery), floating.
        percent: 0 to 100.
        positives: (queries, gallery) bool; the diagonal if None.
        workers: who holds the other rows of the batch, all of which count; all must call this in step.

    Returns:
        In label units, the same on all workers.

    Raises:
        ConfigError: a percentage out of range.
        ShapeError: no floating matrix with at least one row, a mask of another shape, or (CPU only) a label that is
            not finite.
    """
    if not 0 <= percent <= 100:
        raise ConfigError(f"gap: percentile {percent}, expected 0 to 100.")
    require_matrix("labels", labels)
    if positives is not None:
        require_mask("positives", positives, "labels", labels)
    else:
        positives = torch.eye(*labels.shape, dtype=torch.bool, device=labels.device)
    ascending = labels.detach().masked_fill(positives, torch.nan).sort(1).values  # NaN goes last
    columns = torch.arange(labels.shape[1], device=labels.device).expand_as(ascending)
    differences = _listed_if_few(_Differences(ascending, columns.masked_fill(~ascending.isnan(), 0), columns))
    return percentile(differences, percent, workers)


class _Differences:
    """Of each label the differences to those of its row at columns start to stop - 1, which are not larger.

    They fall from start to stop, and rounding keeps that order: a threshold cuts each of these ranges in two.

    Args:
        ascending: (rows, columns), each row sorted.
        start, stop: (rows, columns) int64.
    """

    def __init__(self, ascending: Tensor, start: Tensor, stop: Tensor) -> None:
        self._ascending, self._start, self._stop = ascending, start, stop
        self._ends = (stop - start).flatten().cumsum(0)

    @property
    def dtype(self) -> torch.dtype:
        return self._ascending.dtype

    @property
    def size(self) -> Tensor:
        return self._ends[-1]

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        none = self._start == self._stop
        smallest = self._to(self._stop.sub(1).clamp_(min=0)).masked_fill_(none, inf)
        largest = self._to(self._start).masked_fill_(none, -inf)
        return smallest.amin(), largest.amax()

    def sample(self, size: int) -> Tensor:
        total = int(self.size)
        return self._at(torch.arange(0, total, -(-total // size) or 1, device=self._ends.device))

    def split(self, at: float) -> tuple[Multiset, Multiset]:
        start, stop = self._start, self._stop
        # Bisection for the first column that differs by at most `at`, asking for the difference itself: where a label
        # minus `at` would be in the row is rounded otherwise.
        for _ in range(int((stop - start).amax()).bit_length()):
            middle = (start + stop) >> 1
            beyond = (self._to(middle) > at) & (start < stop)
            start, stop = torch.where(beyond, middle + 1, start), torch.where(beyond, stop, middle)
        low, high = _Differences(self._ascending, stop, self._stop), _Differences(self._ascending, self._start, stop)
        return _listed_if_few(low), _listed_if_few(high)

    def _to(self, columns: Tensor) -> Tensor:
        return self._ascending - self._ascending.gather(1, columns)

    def _at(self, places: Tensor) -> Tensor:
        """The differences at these places, counted through all ranges."""
        label = torch.searchsorted(self._ends, places, right=True)
        column = self._stop.flatten()[label] - (self._ends[label] - places)
        labels, columns = self._ascending.flatten(), self._ascending.shape[1]
        return labels[label] - labels[label // columns * columns + column]

    def listed(self) -> Numbers:
        return Numbers(self._at(torch.arange(int(self.size), device=self._ends.device)))


def _listed_if_few(differences: _Differences) -> Multiset:
    few = max(_FEW, 2 * differences._ascending.numel())
    return differences.listed() if int(differences.size) <= few else differences
