"""The label gap up to which two candidates count as equally relevant: a number, or a percentile of the labels."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from bcls_core.errors import ConfigError
from bcls_core.losses.discordance import pair_blocks

_DIGIT = 16
_DIGIT_MASK = 0xFFFF


def resolve_gap(gap: float | str, labels: Tensor, positives: Tensor | None) -> float:
    """A gap as a number that the labels' dtype can hold, so that comparing with it means the same on every device.

    Args:
        gap: a number >= 0 in label units, or "p60" = `gap_percentile(labels, 60, positives)`.
        labels: (queries, gallery).
        positives: (queries, gallery) bool; the diagonal if None.

    Raises:
        ConfigError: a negative gap, or a text that is no percentile.
    """
    if isinstance(gap, str):
        match = re.fullmatch(r"p(\d{1,3}(?:\.\d+)?)", gap)
        if match is None:
            raise ConfigError(f"gap: {gap!r}, expected a number in label units or a percentile such as 'p60'.")
        gap = gap_percentile(labels, float(match[1]), positives)
    if not gap >= 0:
        raise ConfigError(f"gap: {gap}, expected a number >= 0: below zero equal labels would count as ordered.")
    return float(torch.tensor(gap, dtype=labels.dtype))


def gap_percentile(labels: Tensor, percent: float, positives: Tensor | None = None) -> float:
    """Percentile of `|R_ij - R_ik|` over all rows i and unordered pairs j, k of columns that are no positives of i.

    Interpolates linearly between order statistics, as `numpy.percentile` does; exact, by radix selection over the bits
    of the differences in the labels' own dtype, so no list of the O(B^3) differences is ever made. 0.0 where no row has
    two such columns.

    Args:
        labels: (queries, gallery), floating.
        percent: 0 to 100.
        positives: (queries, gallery) bool; the diagonal if None.

    Raises:
        ConfigError: a percentage out of range.
    """
    if not 0 <= percent <= 100:
        raise ConfigError(f"gap: percentile {percent}, expected 0 to 100.")
    if positives is None:
        positives = torch.eye(*labels.shape, dtype=torch.bool, device=labels.device)
    negatives = (~positives).sum(1)
    total = int((negatives * (negatives - 1) // 2).sum())
    if total == 0:
        return 0.0
    # NaN stands above every number in the order of bits, so what is left out needs no further mask.
    candidates = labels.detach().masked_fill(positives, torch.nan)
    position = percent / 100 * (total - 1)
    rank = min(int(position), total - 1)
    # A block holds each pair twice and each column with itself: that many zeros come before everything.
    lower, upper = _order_statistics(candidates, int(negatives.sum()) + 2 * rank)
    return lower + (upper - lower) * (position - rank)


def _differences(labels: Tensor) -> Iterator[Tensor]:
    for rows, columns in pair_blocks(labels):
        yield (labels[rows, columns, None] - labels[rows, None, :]).abs_().flatten()


def _order_statistics(labels: Tensor, rank: int) -> tuple[float, float]:
    """Of all differences the one of this rank (from 0) and the one two ranks on (itself if there is no larger number).

    The bits of non-negative floats, read as integers, are in the floats' order: fix 16 of them a pass, from the top, by
    counting.
    """
    width = labels.dtype.itemsize * 8
    integer = {16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
    wide = torch.int64 if width == 64 else torch.int32  # so that 16 bits fit above the sign
    prefix, equal = 0, 0
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=labels.device)
        for block in _differences(labels):
            keys = block.view(integer).to(wide)
            if shift + _DIGIT < width:
                keys = keys[keys >> (shift + _DIGIT) == prefix]
            counts += torch.bincount(keys >> shift & _DIGIT_MASK, minlength=1 << _DIGIT)
        cumulative = counts.cumsum(0)
        digit = int((cumulative <= rank).sum())
        equal = int(cumulative[digit]) - rank
        rank -= int(cumulative[digit] - counts[digit])
        prefix = prefix << _DIGIT | digit
    lower = float(torch.tensor(prefix, dtype=torch.int64).to(integer).view(labels.dtype))
    if equal > 2:
        return lower, lower
    larger = min(float(torch.where(block > lower, block, torch.inf).amin()) for block in _differences(labels))
    return lower, larger if larger < torch.inf else lower
