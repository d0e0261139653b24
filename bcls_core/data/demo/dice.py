"""Random choices that are the same in every process, on every machine, with every NumPy.

NumPy promises that the raw words of a bit generator never change, but not what its distributions make of them. So
choices are made here, from the raw words of a Philox generator keyed by (seed, key...).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

_BUFFER = 64
_ULP = 2.0**-53


class Dice:
    """A stream of choices that depends only on `seed` and `key`; other keys give independent streams."""

    def __init__(self, seed: int, *key: int) -> None:
        self._bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key))
        self._words: list[int] = []

    def unit(self) -> float:
        """A number in [0, 1), a multiple of 2^-53."""
        if not self._words:
            self._words = self._bits.random_raw(_BUFFER).tolist()
            self._words.reverse()
        return (self._words.pop() >> 11) * _ULP

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
        """One of `items`, with probabilities proportional to `weights` (equal ones if None)."""
        if weights is None:
            return items[int(self.unit() * len(items))]
        steps = list(accumulate(weights))
        return items[min(bisect_right(steps, self.unit() * steps[-1]), len(items) - 1)]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """`items` in random order."""
        return sorted(items, key=lambda _: self.unit())
