"""Cosine of stored fp16 rows, as one exactly defined number.

The value of a pair is the float64 dot product of the two fp16 rows over the product of their float64 norms, rounded to
fp32. Products of fp16 values are multiples of 2^-48, so sums below 2^5 are exact in float64 in whatever order they are
taken: for rows of norm at most 4 (label sets store unit rows) every blocking, library and device gives the same bits.
Longer rows are scaled by a power of two and cut into a high and a low part whose products are exact in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bcls_core.errors import ShapeError
from bcls_core.similarity.measure import FloatArray

Float64Array = NDArray[np.float64]
StoredRows = NDArray[np.float16]

PLAIN_NORM = 4.0
"""Rows of at most this norm have exact float64 products as they are."""

_HIGH_GRID = 2.0**25
_MAX_LONG_DIMENSION = 4096  # sums of the parts of longer rows would need more than float64's 53 bits beyond it
_SMALLEST_PEAK, _LARGEST_PEAK = 2.0**-10, 2.0**15


def stored_rows(embeddings: ArrayLike, what: str = "embeddings") -> StoredRows:
    """`embeddings` as a label set stores them: fp16, one row a caption.

    fp16 input is taken as it is. Other numbers are rounded to fp16; a row whose largest magnitude is outside
    [2^-10, 2^15], where fp16 loses bits or overflows, is first multiplied by a power of two, which changes no cosine.

    Args:
        embeddings: (rows, dimension) numpy array, torch tensor, or nested sequence.
        what: how an error calls them.
    Raises:
        ShapeError: not a matrix of numbers, not finite, or a row is all zeros and has no direction.
    """
    array = _matrix(embeddings, what)
    if array.dtype != np.float16:
        array = _to_half(array.astype(np.float64, copy=False), what)
    _refuse_not_finite(np.isfinite(array).all(axis=1), what)
    nonzero = array.any(axis=1)
    if not nonzero.all():
        row = int(np.argmin(nonzero))
        raise ShapeError(f"{what}: row {row} is all zeros and has no direction. Drop the row or encode it again.")
    return array


def cosine_pairs(a: StoredRows, b: StoredRows) -> FloatArray:
    """(n,) cosines of row i of `a` with row i of `b`.

    Raises:
        ShapeError: the two disagree in shape.
    """
    if a.shape != b.shape:
        raise ShapeError(f"pairs: found shapes {a.shape} and {b.shape}. Give as many rows on both sides, equally wide.")
    return ExactRows.of(a).pairs(ExactRows.of(b))


def cosine_matrix(a: StoredRows, b: StoredRows) -> FloatArray:
    """(len(a), len(b)) cosines.

    Raises:
        ShapeError: the two disagree in width.
    """
    if a.shape[1] != b.shape[1]:
        raise ShapeError(f"matrix: rows of {a.shape[1]} and of {b.shape[1]} values. Encode both sides with one model.")
    return ExactRows.of(a).matrix(ExactRows.of(b))


@dataclass(frozen=True)
class ExactRows:
    """Rows in float64, split so that dot products of the parts are exact, and their norms in the same scale."""

    high: Float64Array
    low: Float64Array | None
    norms: Float64Array

    @classmethod
    def of(cls, rows: StoredRows) -> ExactRows:
        """Prepares stored rows; what a row becomes does not depend on the others.

        Raises:
            ShapeError: rows too wide for their norms.
        """
        high = rows.astype(np.float64)
        squares = np.einsum("nd,nd->n", high, high)
        long = squares > PLAIN_NORM**2
        if not long.any():
            return cls(high, None, np.sqrt(squares))
        if rows.shape[1] > _MAX_LONG_DIMENSION:
            raise ShapeError(
                f"rows of {rows.shape[1]} values have norms above {PLAIN_NORM:g}, where cosines would not be exact. "
                "Divide each row by its norm first."
            )
        _, exponents = np.frexp(np.sqrt(squares))
        scaled = np.ldexp(high, np.where(long, 1 - exponents, 0)[:, None])
        high = np.where(long[:, None], np.rint(scaled * _HIGH_GRID) / _HIGH_GRID, scaled)
        low = scaled - high
        squares = np.einsum("nd,nd->n", high, high) + (2 * _paired(high, low) + _paired(low, low))
        return cls(high, low, np.sqrt(squares))

    def take(self, places: NDArray[np.int64]) -> ExactRows:
        """Some of the rows."""
        return ExactRows(self.high[places], None if self.low is None else self.low[places], self.norms[places])

    def unit(self) -> FloatArray:
        """(rows, dimension) rows over their norms, each value rounded to fp32."""
        values = self.high if self.low is None else self.high + self.low
        unit: FloatArray = (values / self.norms[:, None]).astype(np.float32)
        return unit

    def pairs(self, other: ExactRows) -> FloatArray:
        """(n,) cosines of row i with row i of `other`."""
        dots = np.einsum("nd,nd->n", self.high, other.high)
        if self.low is not None or other.low is not None:
            mixed = _paired(self.high, other.low) + _paired(self.low, other.high)
            dots = dots + (mixed + _paired(self.low, other.low))
        return _published(dots, self.norms * other.norms)

    def matrix(self, other: ExactRows) -> FloatArray:
        """(rows, rows of other) cosines."""
        dots = _product(self.high, other.high)
        if self.low is not None or other.low is not None:
            mixed = _crossed(self.high, other.low) + _crossed(self.low, other.high)
            dots = dots + (mixed + _crossed(self.low, other.low))
        return _published(dots, self.norms[:, None] * other.norms[None, :])


def _paired(a: Float64Array | None, b: Float64Array | None) -> Float64Array | float:
    if a is None or b is None:
        return 0.0
    dots: Float64Array = np.einsum("nd,nd->n", a, b)
    return dots


def _crossed(a: Float64Array | None, b: Float64Array | None) -> Float64Array | float:
    return 0.0 if a is None or b is None else _product(a, b)


def _product(a: Float64Array, b: Float64Array) -> Float64Array:
    # By torch: threads that numpy's product leaves behind spin for tens of milliseconds, and the next step waits.
    dots: Float64Array = (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy()
    return dots


def _published(dots: Float64Array, norms: Float64Array) -> FloatArray:
    dots /= norms
    cosines: FloatArray = dots.astype(np.float32)
    cosines += np.float32(0.0)  # never -0
    return cosines


def _matrix(embeddings: Any, what: str) -> NDArray[Any]:
    if hasattr(embeddings, "detach"):  # a tensor; numpy knows no bfloat16
        embeddings = embeddings.detach().cpu()
        embeddings = embeddings if str(embeddings.dtype) == "torch.float16" else embeddings.double()
    try:
        array = np.asarray(embeddings)
    except ValueError as error:
        raise ShapeError(f"{what}: rows differ in length ({error}). Encode all of them with one model.") from error
    if array.ndim != 2 or not array.shape[1]:
        raise ShapeError(f"{what}: found shape {array.shape}, expected (rows, dimension).")
    if array.dtype.kind not in "fiu":
        raise ShapeError(f"{what}: found {array.dtype} values, expected real numbers.")
    return array


def _to_half(array: Float64Array, what: str) -> StoredRows:
    peaks = np.abs(array).max(axis=1)
    _refuse_not_finite(np.isfinite(peaks), what)
    _, exponents = np.frexp(peaks)
    outside = ((peaks < _SMALLEST_PEAK) | (peaks > _LARGEST_PEAK)) & (peaks > 0)
    scaled = np.ldexp(array, np.where(outside, -exponents, 0)[:, None]) if outside.any() else array
    half: StoredRows = scaled.astype(np.float16)
    return half


def _refuse_not_finite(finite: NDArray[np.bool_], what: str) -> None:
    if not finite.all():
        row = int(np.argmin(finite))
        raise ShapeError(f"{what}: row {row} holds NaN or infinity. Drop the row or encode it again.")
