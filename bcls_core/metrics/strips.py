"""Scores or labels of a gallery, made and dropped a strip at a time: metrics never hold a whole score matrix."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.errors import ShapeError
from bcls_core.metrics.arrays import Matrix, require_matrix, require_no_nan, rows_of

Strip = NDArray[Any]

_COLUMNS = 8192  # of a float64 product at once


@runtime_checkable
class Strips(Protocol):
    """A matrix of (images, captions) values that can be read by rows and by columns."""

    @property
    def images(self) -> int: ...

    @property
    def captions(self) -> int: ...

    def image_rows(self, start: int, stop: int) -> Strip:
        """(stop - start, captions) values of some images."""

    def caption_rows(self, start: int, stop: int) -> Strip:
        """(stop - start, images) values of some captions."""


Scores = Matrix | Strips
"""What metrics take for scores or labels: a matrix, or what makes its strips."""


class MatrixStrips:
    """Strips of a matrix that is there; a memory-mapped one is read no further than it is asked for."""

    def __init__(self, name: str, values: Matrix) -> None:
        """
        Args:
            name: what errors call the matrix.
            values: (images, captions) numbers.
        Raises:
            ShapeError: not a matrix, or without rows or columns.
        """
        self.images, self.captions = require_matrix(name, values)
        self._name = name
        self._values = values

    def image_rows(self, start: int, stop: int) -> Strip:
        """Raises ShapeError where there is a NaN, naming row and column."""
        strip = rows_of(self._values, start, stop)
        require_no_nan(self._name, strip, start)
        return _comparable(strip)

    def caption_rows(self, start: int, stop: int) -> Strip:
        """Raises ShapeError where there is a NaN, naming row and column."""
        strip = rows_of(self._values.T, start, stop)
        missing = torch.isnan(strip)
        if bool(missing.any()):
            require_no_nan(self._name, rows_of(self._values, 0, self.images))
        return _comparable(strip)


class Products:
    """Scores that are inner products of encodings.

    A score is the float64 product rounded to float32, never -0: equal encodings have equal scores wherever they stand.
    Exactly so for float16 and bfloat16 encodings, whose float64 products lose nothing; strips of wider ones, which a
    matrix product makes, may differ from `pairs` in the last bit where a sum falls within float64's error of the middle
    between two float32 numbers.

    Attributes:
        image_encodings: (images, dimensions), float32 or float64.
        caption_encodings: (captions, dimensions), the same.
    """

    def __init__(self, image_encodings: Matrix, caption_encodings: Matrix) -> None:
        """
        Args:
            image_encodings: (images, dimensions), of unit length where cosines are meant.
            caption_encodings: (captions, dimensions).
        Raises:
            ShapeError: widths disagree, a value is NaN or infinite (names row and dimension), or products overflow
                float32.
        """
        self.images, dimensions = require_matrix("image_encodings", image_encodings)
        self.captions, caption_dimensions = require_matrix("caption_encodings", caption_encodings)
        if dimensions != caption_dimensions:
            raise ShapeError(
                f"caption_encodings: {caption_dimensions} dimensions, but image_encodings have {dimensions}."
            )
        self.image_encodings = _encodings(image_encodings)
        same = caption_encodings is image_encodings
        self.caption_encodings = self.image_encodings if same else _encodings(caption_encodings)
        self.image_norms = _norms("image_encodings", self.image_encodings)
        self.caption_norms = self.image_norms if same else _norms("caption_encodings", self.caption_encodings)
        longest = float(self.image_norms.max() * self.caption_norms.max())
        if not longest < float(np.finfo(np.float32).max) / 2:
            raise ShapeError(
                f"encodings: norms up to {self.image_norms.max():.3g} and {self.caption_norms.max():.3g}, "
                "whose products overflow float32. Divide each row by its norm first."
            )

    @property
    def dimensions(self) -> int:
        return int(self.image_encodings.shape[1])

    def image_rows(self, start: int, stop: int) -> Strip:
        return _product(self.image_encodings[start:stop], self.caption_encodings)

    def caption_rows(self, start: int, stop: int) -> Strip:
        return _product(self.caption_encodings[start:stop], self.image_encodings)

    def pairs(self, image_rows: NDArray[np.int64], caption_rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n,) scores of image `image_rows[i]` with caption `caption_rows[i]`, summed in one fixed order."""
        from bcls_core.metrics.rank_kernels import dots  # loads a compiler

        scores = np.empty(len(image_rows), np.float32)
        dots(self.image_encodings, self.caption_encodings, image_rows, caption_rows, scores)
        return scores


def strips_of(name: str, values: Scores) -> Strips:
    """A matrix as strips; what gives strips already, as it is."""
    if isinstance(values, Strips):
        return values
    return MatrixStrips(name, values if hasattr(values, "shape") else np.asarray(values))


def comparable(name: str, strip: Any, first: int) -> Strip:
    """Whatever strips were made, in a dtype that compiled code compares, with no value changed.

    Raises:
        ShapeError: there is a NaN (names the strip's row and column), or values are no real numbers.
    """
    if isinstance(strip, np.ndarray) and strip.dtype in (np.float32, np.float64) and not np.isnan(strip).any():
        return np.ascontiguousarray(strip)
    rows = rows_of(strip, 0, len(strip))
    require_no_nan(name, rows, first)
    return _comparable(rows)


def _encodings(values: Matrix) -> NDArray[Any]:
    """As float32 if that loses nothing, else as float64."""
    tensor = rows_of(values, 0, values.shape[0]).cpu()
    narrow = tensor.dtype in (torch.float16, torch.bfloat16, torch.float32)
    return tensor.to(torch.float32 if narrow else torch.float64).contiguous().numpy()


def _norms(name: str, encodings: NDArray[Any]) -> NDArray[np.float64]:
    """(rows,) lengths. Raises ShapeError for NaN and infinity, naming row and dimension."""
    norms: NDArray[np.float64] = np.empty(len(encodings))
    for start in range(0, len(encodings), 1024):
        part = encodings[start : start + 1024].astype(np.float64)
        with np.errstate(over="ignore"):
            norms[start : start + len(part)] = np.sqrt(np.einsum("nd,nd->n", part, part))
    suspect = np.flatnonzero(~np.isfinite(norms))
    if len(suspect):
        first = int(suspect[0])
        row = torch.from_numpy(encodings[first : first + 1])
        require_no_nan(name, row, first)
        infinite = torch.isinf(row)[0].nonzero()
        if len(infinite):
            raise ShapeError(f"{name}: infinite at row {first}, column {int(infinite[0])}. It has no products.")
    return norms


def _product(rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
    wide = rows.astype(np.float64)
    strip = np.empty((len(rows), len(columns)), np.float32)
    for start in range(0, len(columns), _COLUMNS):
        part = columns[start : start + _COLUMNS].astype(np.float64)
        strip[:, start : start + len(part)] = wide @ part.T
    strip += np.float32(0.0)
    return strip


def _comparable(strip: Tensor) -> Strip:
    """In a dtype of numpy's that compiled code compares, with no value changed."""
    if strip.dtype in (torch.float16, torch.bfloat16):
        strip = strip.float()
    elif strip.dtype is torch.bool:
        strip = strip.to(torch.uint8)
    return np.ascontiguousarray(strip.cpu().numpy())
