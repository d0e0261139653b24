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
def norms(bits: NDArray[np.uint16], order: NDArray[np.int32], found: NDArray[np.float64]) -> None:
    """Norms of fp16 rows, given as uint16 bits: written to `found` for the rows in `order`."""
    for i in order:
        square = 0.0
        for d in range(bits.shape[1]):
            value = widen(bits[i, d])
            square += value * value
        found[i] = np.sqrt(square)


@compiled
def unit_rows(
    exact: NDArray[Any],
    low: NDArray[np.float64],
    order: NDArray[np.int32],
    norms: NDArray[np.float64],
    units: NDArray[np.float64],
) -> None:
    """Rows over their norms.

    Args:
        exact, low: (rows, dimension) and (rows, dimension) or (0, 0), as `neighbour_kernels.Rows` has them.
        order: (positions,) which rows to take.
        norms: (rows,).
        units: (positions, dimension) written.
    """
    for position in range(len(order)):
        i = order[position]
        for d in range(exact.shape[1]):
            value = widen(exact[i, d])
            if len(low):
                value += low[i, d]
            units[position, d] = value / norms[i]


@compiled
def halved(values: NDArray[np.float64], axes: int, leaf: int) -> NDArray[np.int64]:
    """An order in which rows near each other stand together: halves along the axis with the widest spread, of those
    again halves, and so on (a k-d tree's leaves).

    Args:
        values: (rows, dimension).
        axes: how many to look at, the first ones.
        leaf: rows that are not halved; parts have a multiple of it but for the last.
    """
    order, looked = np.arange(len(values)), min(axes, values.shape[1])
    waiting = [(0, len(values))]
    while len(waiting):
        first, last = waiting.pop()
        count = last - first
        if count <= leaf:
            continue
        widest, spread = 0, -1.0
        for axis in range(looked):
            total, squares = 0.0, 0.0
            for row in order[first:last]:
                total += values[row, axis]
                squares += values[row, axis] ** 2
            if squares - total * total / count > spread:
                widest, spread = axis, squares - total * total / count
        along = np.empty(count)
        for place in range(count):
            along[place] = values[order[first + place], widest]
        order[first:last] = order[first:last][np.argsort(along)]
        middle = first + (count // 2 + leaf - 1) // leaf * leaf
        waiting.append((first, middle))
        waiting.append((middle, last))
    return order


@compiled
def quantise(
    units: NDArray[np.float64],
    taken: NDArray[np.int64],
    first: int,
    stops: NDArray[np.int64],
    pairs: NDArray[np.int32],
    tails: NDArray[np.int32],
    errors: NDArray[np.float64],
) -> None:
    """Unit rows as integers, with the norm of what rounding took and the norms of what is behind each stop.

    Args:
        units: (rows, dimension).
        taken: which of them.
        first: position of the first one taken.
        stops: (stops,) numbers of pairs, ascending.
        pairs: (blocks, pairs, ROWS) written at the rows' positions.
        tails: (stops, positions) written, rounded up.
        errors: (positions,) written, in units of the integers.
    """
    values = np.zeros(2 * pairs.shape[1], dtype=np.int16)
    for number in range(len(taken)):
        row = units[taken[number]]
        lost = 0.0
        for d in range(len(row)):
            wanted = row[d] * SCALE
            value = np.rint(wanted)
            lost += (wanted - value) * (wanted - value)
            values[d] = np.int16(value)
        position = first + number
        errors[position] = np.sqrt(lost)
        pairs[position // ROWS, :, position % ROWS] = values.view(np.int32)
        square, behind = np.int64(0), len(values)
        for stop in range(len(stops) - 1, -1, -1):
            while behind > 2 * stops[stop]:
                behind -= 1
                square += np.int64(values[behind]) * np.int64(values[behind])
            tails[stop, position] = np.int32(np.ceil(np.sqrt(np.float64(square))))


@compiled
def row_hashes(bits: NDArray[np.uint16], hashes: NDArray[np.uint64]) -> None:
    """A hash of each row's bits (Fowler, Noll and Vo), written to `hashes`."""
    for row in range(len(bits)):
        value = np.uint64(14695981039346656037)
        for d in range(bits.shape[1]):
            value = (value ^ np.uint64(bits[row, d])) * np.uint64(1099511628211)
        hashes[row] = value


@compiled
def pack(blocks: NDArray[np.int32], packed: NDArray[np.int32], first: int) -> None:
    """Rows in blocks as columns of panels.

    Args:
        blocks: (blocks, pairs, ROWS).
        packed: (panels, pairs, COLUMNS) written.
        first: row that is the first column.
    """
    for panel in range(packed.shape[0]):
        for column in range(COLUMNS):
            row = first + panel * COLUMNS + column
            block, place = row // ROWS, row % ROWS
            for pair in range(packed.shape[1]):
                packed[panel, pair, column] = blocks[block, pair, place]
