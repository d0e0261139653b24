"""Sort orders and selection for compiled code. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Orders = NDArray[np.int64]
"""Per row its columns, from the smallest value to the largest."""


def ascending(values: Floats) -> Orders:
    """Orders of (rows, columns) values; equal ones come in any order, but always in the same."""
    if values.dtype != np.float32:
        return np.argsort(values, axis=1)
    # Whole numbers sort several times faster than an order is found, so each value becomes one that carries its column.
    keys = np.empty(values.shape, np.int64)
    _pack(values.view(np.int32), keys)
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    return keys


@compiled
def _pack(bits: Integers, keys: Orders) -> None:
    rows, columns = bits.shape
    for i in range(rows):
        for k in range(columns):
            # A float's bits rise with its value where it is positive, and fall where the sign bit is set.
            value = np.int64(bits[i, k])
            ordinal = value ^ ((value >> 31) & 0x7FFFFFFF)
            keys[i, k] = (ordinal << 32) | k


@compiled
def kth_largest(values: NDArray[Any], k: int) -> Any:
    """The k-th largest of some values, by halving a copy (Hoare's algorithm 65)."""
    rest = values.copy()
    low, high, place = 0, len(rest) - 1, len(rest) - k
    while low < high:
        pivot = rest[(low + high) // 2]
        left, right = low, high
        while left <= right:
            while rest[left] < pivot:
                left += 1
            while rest[right] > pivot:
                right -= 1
            if left <= right:
                rest[left], rest[right] = rest[right], rest[left]
                left += 1
                right -= 1
        if place <= right:
            high = right
        elif place >= left:
            low = left
        else:
            break
    return rest[place]
