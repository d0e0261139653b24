"""A basis in which the first values of most rows say nearly everything.

Cosines do not depend on the basis. In that of the principal axes (of the second moments about zero: dot products are
asked for, not variances) a search may give up most pairs long before it has seen all their values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bcls_core.similarity.int16_blocks import STEP
from bcls_core.similarity.measure import IntArray

Float64Array = NDArray[np.float64]

SAMPLE = 4096
"""Rows from which the axes are estimated."""

_ROWS_FOR_EACH = 8  # rows for each dimension at least, or finding axes takes longer than they spare
_STOPS = (0.8, 0.9, 0.95)  # shares of the rows' squares before a stop


@dataclass(frozen=True, eq=False)
class PrincipalBasis:
    """Axes, and how many of them to look at between two stops.

    Attributes:
        axes: (dimension, dimension) orthonormal columns, the weightiest first; None where rows stay as they are.
        stops: numbers of pairs of values, ascending; the last is all of them.
        error: the largest by which the axes change the dot product of two unit rows.
    """

    axes: torch.Tensor | None
    stops: IntArray
    error: float

    @classmethod
    def of(cls, sample: Float64Array, rows: int) -> PrincipalBasis:
        """
        Args:
            sample: (sample, dimension) unit rows.
            rows: how many there are in all.
        """
        dimension = sample.shape[1]
        pairs = _pairs(dimension)
        if rows < _ROWS_FOR_EACH * dimension:
            return cls(None, np.array([pairs]), 0.0)
        values = torch.from_numpy(sample)
        weights, axes = torch.linalg.eigh(values.T @ values)
        axes = axes.flip(1).contiguous()
        seen = torch.cumsum(weights.flip(0), 0) / weights.sum()
        enough = torch.searchsorted(seen, torch.tensor(_STOPS, dtype=torch.float64)).numpy() + 1
        stops = np.unique([_pairs(min(int(count), dimension)) for count in (*enough, dimension)])
        error = float(
            torch.linalg.matrix_norm(axes @ axes.T - torch.eye(dimension, dtype=axes.dtype, device=axes.device))
        )
        return cls(axes, stops, error)

    def turned(self, rows: Float64Array, space: Float64Array) -> Float64Array:
        """(rows, dimension) rows along the axes, in the space given; the rows themselves where they stay."""
        if self.axes is None:
            return rows
        along = space[: len(rows)]
        torch.mm(torch.from_numpy(rows), self.axes, out=torch.from_numpy(along))
        return along


def _pairs(values: int) -> int:
    return -(-values // (2 * STEP)) * STEP
