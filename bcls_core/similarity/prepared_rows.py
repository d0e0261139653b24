"""Rows made ready for the search: unit rows along their principal axes, rounded to integers, in a fruitful order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.similarity import row_kernels
from bcls_core.similarity.cosine import PLAIN_NORM, ExactRows, Float64Array, StoredRows
from bcls_core.similarity.measure import IntArray
from bcls_core.similarity.neighbour_kernels import Rows
from bcls_core.similarity.parallel import over_parts, read_only
from bcls_core.similarity.principal_basis import SAMPLE, PrincipalBasis

_ALIGNED = 96  # a multiple of every shape's rows and columns
_FEWEST_COLUMNS, _MOST_COLUMNS = 5 * _ALIGNED, 42 * _ALIGNED  # of a chunk, packed into panels together
_CHUNKS = 20  # at least, where there are rows for so many: products of a chunk with itself are made twice
_AXES, _LEAF = 8, 16  # by which rows of a chunk are put in order, and how finely
_SEED = 20221019


@dataclass(frozen=True, eq=False)
class PreparedRows:
    """Rows in the form that the kernels read: made once, searched often.

    They come in random order, and within a chunk those near each other stand together: then most blocks of products
    hold nothing at all that matters, and end early.

    Memory: a 16-bit integer for each value, beside the rows themselves.

    Attributes:
        basis: in which the values are.
        error: the largest norm of what rounding to integers took from a row, in units of the integers.
    """

    kernel: Any
    basis: PrincipalBasis
    error: float

    def __len__(self) -> int:
        return len(self.kernel.order)

    @classmethod
    def of(
        cls,
        rows: StoredRows,
        groups: IntArray | None = None,
        *,
        which: IntArray | None = None,
        basis: PrincipalBasis | None = None,
    ) -> PreparedRows:
        """
        Args:
            rows: (rows, dimension) as `stored_rows` gives them.
            groups: (rows,) numbers; rows of equal groups do not find each other.
            which: rows that take part, all if None.
            basis: that of the rows to be searched; their own if None.
        """
        taken = np.arange(len(rows)) if which is None else which
        order = _shuffled(taken).astype(np.int32)
        units = _UnitRows(rows, order)
        axes = basis or PrincipalBasis.of(units.at(slice(0, SAMPLE), np.empty((SAMPLE, rows.shape[1]))), len(order))
        pairs = _blocks(len(order), int(axes.stops[-1]))
        tails = np.zeros((len(axes.stops), aligned(len(order))), dtype=np.int32)
        errors, width = np.empty(len(order)), chunk_of(len(order))
        space = np.empty((2, min(width, len(order)), rows.shape[1]))
        for first in range(0, len(order), width):
            places = slice(first, first + width)
            turned = axes.turned(units.at(places, space[0]), space[1])
            near = np.arange(len(turned))
            if axes.axes is not None:
                near = row_kernels.halved(turned, _AXES, _LEAF)
                order[places] = order[places][near]

            def quantise(part: slice, first: int = first, turned: Any = turned, near: Any = near) -> None:
                row_kernels.quantise(turned, near[part], first + part.start, axes.stops, pairs, tails, errors)

            over_parts(len(turned), quantise)
        numbers = np.empty(0, dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)[order]
        kernel = Rows(pairs, tails, axes.stops, numbers, order, units.exact, units.low, units.norms)
        return cls(kernel, axes, float(errors.max(initial=0.0)))

    def part(self, rows: IntArray) -> PreparedRows:
        """Some of the rows, in the same numbering."""
        kernel = self.kernel
        places = np.flatnonzero(np.isin(kernel.order, rows))
        pairs, step = _blocks(len(places), kernel.pairs.shape[1]), row_kernels.ROWS
        here = np.arange(len(places))
        pairs[here // step, :, here % step] = kernel.pairs[places // step, :, places % step]
        tails = np.zeros((len(kernel.tails), aligned(len(places))), dtype=np.int32)
        tails[:, : len(places)] = kernel.tails[:, places]
        groups = kernel.groups[places] if len(kernel.groups) else kernel.groups
        part = kernel._replace(pairs=pairs, tails=tails, groups=groups, order=kernel.order[places])
        return PreparedRows(part, self.basis, self.error)


class _UnitRows:
    """Rows over their norms, some at a time; and the parts of which exact dot products are made."""

    def __init__(self, rows: StoredRows, order: NDArray[np.int32]) -> None:
        self._order = order
        self.norms = np.empty(len(rows))
        self.exact, self.low = read_only(np.ascontiguousarray(rows).view(np.uint16)), read_only(np.empty((0, 0)))
        over_parts(len(order), lambda part: row_kernels.norms(self.exact, order[part], self.norms))
        if (self.norms[order] > PLAIN_NORM).any():
            parts = ExactRows.of(rows)
            if parts.low is not None:
                high, low = (read_only(np.ascontiguousarray(part)) for part in (parts.high, parts.low))
                self.exact, self.low, self.norms = high, low, parts.norms

    def at(self, places: slice, space: Float64Array) -> Float64Array:
        """(places, dimension) unit rows, in order, in the space given."""
        order = self._order[places]
        units = space[: len(order)]
        over_parts(
            len(order),
            lambda part: row_kernels.unit_rows(self.exact, self.low, order[part], self.norms, units[part]),
        )
        return units


def _shuffled(rows: IntArray) -> IntArray:
    """In random order: what a query has met of its best rows tells then how many are still to come."""
    return np.random.default_rng(_SEED).permutation(rows)


def _blocks(rows: int, pairs: int) -> NDArray[np.int32]:
    return np.zeros((aligned(rows) // row_kernels.ROWS, pairs, row_kernels.ROWS), dtype=np.int32)


def chunk_of(rows: int) -> int:
    """Rows of a chunk, which are met together: those of different chunks are in random order."""
    return min(max(_FEWEST_COLUMNS, min(_MOST_COLUMNS, rows // _CHUNKS // _ALIGNED * _ALIGNED)), aligned(rows))


def aligned(count: int) -> int:
    """Rows rounded up to whole blocks and panels."""
    return -(-max(count, 1) // _ALIGNED) * _ALIGNED
