"""Exact percentiles of the numbers that several workers hold together, without bringing them to one place.

Example:
    >>> percentile(Numbers.where(~positives, labels), 70, workers)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import Protocol, Self

import torch
from torch import Tensor

from bcls_core.errors import ConfigError
from bcls_core.losses.directions import ALONE
from bcls_core.workers import Workers

_SAMPLE = 2**12
_MISS = 1.5 / _SAMPLE**0.5  # about three standard deviations of a sample's median, as a part of all numbers


def percent_of(name: str, text: str) -> float:
    """60.0 of "p60". Raises ConfigError, which speaks of the setting `name`, for what is no percentile."""
    match = re.fullmatch(r"p(\d{1,3}(?:\.\d+)?)", text)
    if match is None or float(match[1]) > 100:
        raise ConfigError(f"{name}: {text!r}, expected a number in label units or a percentile such as 'p60'.")
    return float(match[1])


class Multiset(Protocol):
    """One worker's numbers: of one floating dtype, none NaN, equal ones repeated; they need not be in memory."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def size(self) -> Tensor:
        """How many, an int64 scalar."""
        ...

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest, scalars; inf and -inf where there is none."""
        ...

    def sample(self, size: int) -> Tensor:
        """About `size` of them, spread evenly; all where there are fewer, and always the same."""
        ...

    def split(self, at: float) -> tuple[Multiset, Multiset]:
        """Those that are at most `at`, and those above."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Numbers in memory.

    Attributes:
        values: (size,), floating.
    """

    values: Tensor

    @classmethod
    def where(cls, mask: Tensor, values: Tensor) -> Self:
        """The values at the places where a mask of their shape is True."""
        return cls(values.detach()[mask])

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def size(self) -> Tensor:
        return torch.tensor(len(self.values), device=self.values.device)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        if len(self.values) == 0:
            return self.values.new_tensor(inf), self.values.new_tensor(-inf)
        smallest, largest = self.values.aminmax()
        return smallest, largest

    def sample(self, size: int) -> Tensor:
        return self.values[:: -(-len(self.values) // size) or 1]

    def split(self, at: float) -> tuple[Numbers, Numbers]:
        low = self.values <= at
        return Numbers(self.values[low]), Numbers(self.values[~low])


def percentile(numbers: Multiset, percent: float, workers: Workers = ALONE) -> float:
    """Percentile of all workers' numbers, linear between neighbouring order statistics, as `numpy.percentile`.

    The order statistics are exact. The numbers are split again and again, and the part with the wanted rank is kept,
    until it is one number, repeated or not. Two of three splits are where samples say that the rank is, a little above
    and a little below; the third is at the middle between the smallest and the largest number left, counted in numbers
    that the dtype can represent. So a few splits are the rule, and three times the bits of the dtype the worst case.

    Workers exchange counts, bounds and guesses only, and any of them may hold no number.

    Args:
        numbers: this worker's.
        percent: 0 to 100.
        workers: those whose numbers count, who all have to call this in step.

    Returns:
        The same on all workers; 0.0 where nobody has a number.
    """
    size = int(workers.sum(numbers.size))
    if size == 0:
        return 0.0
    position = percent / 100 * (size - 1)
    rank = int(position)
    fraction = position - rank
    smallest, largest = _bounds(numbers, workers)
    above, splits = numbers, 0
    while smallest < largest:
        lowest, highest = (_ordinal(bound, numbers.dtype) for bound in (smallest, largest))
        middle = (lowest + highest) // 2
        if splits % 3 < 2:
            miss = (_MISS, -_MISS)[splits % 3] if size > _SAMPLE else 0.0
            guess = _guess(numbers, (rank + 0.5) / size + miss, size, workers)
            middle = min(max(_ordinal(guess, numbers.dtype), lowest), highest - 1)
        low, high = numbers.split(_of_ordinal(middle, numbers.dtype))
        count = int(workers.sum(low.size))
        if rank < count:
            numbers, above, size = low, high, count
        else:
            numbers, rank, size = high, rank - count, size - count
        smallest, largest = _bounds(numbers, workers)
        splits += 1
    if fraction == 0 or rank + 1 < size:
        return smallest
    # Neither part of a split is empty, so what was last left above begins with the next order statistic.
    following, _ = _bounds(above, workers)
    return smallest + (following - smallest) * fraction


def _bounds(numbers: Multiset, workers: Workers) -> tuple[float, float]:
    smallest, largest = numbers.bounds
    negated, highest = workers.largest(torch.stack([-smallest, largest])).tolist()
    return -negated, highest


def _guess(numbers: Multiset, part: float, size: int, workers: Workers) -> float:
    """About the number below which this part of all numbers is: the mean of what the workers' samples say."""
    sample = numbers.sample(_SAMPLE).double()
    if len(sample) == 0:
        return float(workers.sum(sample.new_zeros(())))
    place = min(max(int(part * len(sample)), 0), len(sample) - 1)
    return float(workers.sum(sample.kthvalue(place + 1).values * (numbers.size.double() / size)))


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _ordinal(value: float, dtype: torch.dtype) -> int:
    """The place of a number among those of its dtype, 0 for both zeros: the bits without the sign, then the sign."""
    integer = _INTEGERS[dtype.itemsize]
    bits = int(torch.tensor(value, dtype=dtype).view(integer))
    return bits if bits >= 0 else -(bits & torch.iinfo(integer).max)


def _of_ordinal(place: int, dtype: torch.dtype) -> float:
    integer = _INTEGERS[dtype.itemsize]
    bits = place if place >= 0 else torch.iinfo(integer).min - place
    return float(torch.tensor(bits, dtype=integer).view(dtype))
