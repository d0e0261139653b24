"""Sort orders of rows for compiled code. Importing it loads the compiler."""

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
