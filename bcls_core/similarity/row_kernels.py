"""Compiled preparation of rows: integers, panels, hashes. Importing this module loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled
from bcls_core.similarity.exact_dot import widen
from bcls_core.similarity.int16_blocks import shape_of_host

SHAPE = shape_of_host()
ROWS, COLUMNS = SHAPE.rows, SHAPE.columns

SCALE = 32000
"""A unit row times this is rounded to 16-bit integers."""


@compiled
def quantise(
    bits: NDArray[np.uint16],
    order: NDArray[np.int32],
    norms: NDArray[np.float64],
    pairs: NDArray[np.int32],
    errors: NDArray[np.float64],
    values: NDArray[np.int16],
) -> None:
    """Norms of fp16 rows, and the rows as integers with the norm of what rounding took.

    Args:
        bits: (rows, dimension) fp16 rows as uint16.
        order: (positions,) which rows to take.
        norms: (rows,) written where a row is taken.
        pairs: (positions, pairs) written.
        errors: (positions,) written, in units of the integers.
        values: (2 * pairs,) int16, zeros; working memory.
    """
    dimension = bits.shape[1]
    row = np.empty(dimension)
    for position in range(len(order)):
        i = order[position]
        square = 0.0
        for d in range(dimension):
            row[d] = widen(bits[i, d])
            square += row[d] * row[d]
        norms[i] = np.sqrt(square)
        _quantise_row(row, SCALE / norms[i], pairs[position], errors, position, values)


@compiled
def quantise_long(
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    order: NDArray[np.int32],
    norms: NDArray[np.float64],
    pairs: NDArray[np.int32],
    errors: NDArray[np.float64],
    values: NDArray[np.int16],
) -> None:
    """`quantise` of rows in high and low parts, whose norms are known."""
    for position in range(len(order)):
        i = order[position]
        _quantise_row(high[i] + low[i], SCALE / norms[i], pairs[position], errors, position, values)


@compiled
def _quantise_row(row: Any, factor: float, pairs: Any, errors: Any, place: int, values: Any) -> None:
    lost = 0.0
    for d in range(len(row)):
        wanted = row[d] * factor
        value = np.rint(wanted)
        lost += (wanted - value) * (wanted - value)
        values[d] = np.int16(value)
    errors[place] = np.sqrt(lost)
    pairs[:] = values.view(np.int32)


@compiled
def row_hashes(bits: NDArray[np.uint16], hashes: NDArray[np.uint64]) -> None:
    """A hash of each row's bits (Fowler, Noll and Vo), written to `hashes`."""
    for row in range(len(bits)):
        value = np.uint64(14695981039346656037)
        for d in range(bits.shape[1]):
            value = (value ^ np.uint64(bits[row, d])) * np.uint64(1099511628211)
        hashes[row] = value


@compiled
def pack(pairs: NDArray[np.int32], packed: NDArray[np.int32]) -> None:
    """Rows as columns of panels: (rows, pairs) to (panels, pairs, COLUMNS)."""
    for panel in range(packed.shape[0]):
        for column in range(COLUMNS):
            row = pairs[panel * COLUMNS + column]
            for pair in range(len(row)):
                packed[panel, pair, column] = row[pair]
