"""What metrics accept: numpy arrays and torch tensors alike, of any real dtype, checked before anything is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.errors import ShapeError

Matrix = Tensor | NDArray[Any]

_REAL = "?bBhHiIlLqQefd"  # numpy's characters of what torch knows, but for bfloat16


def require_matrix(name: str, values: Matrix) -> tuple[int, int]:
    """The shape of a matrix. Raises ShapeError unless it has two dimensions, and at least one row and one column."""
    if len(values.shape) != 2 or 0 in values.shape:
        raise ShapeError(f"{name}: shape {tuple(values.shape)}, expected a matrix of at least one row and one column.")
    real = not values.is_complex() if isinstance(values, Tensor) else values.dtype.char in _REAL
    if not real:
        raise ShapeError(f"{name}: {values.dtype} values, expected real numbers of at most 64 bits.")
    return int(values.shape[0]), int(values.shape[1])


def rows_of(values: Matrix, start: int, stop: int) -> Tensor:
    """Some rows as a tensor; a memory-mapped matrix is read no further than these."""
    part = values[start:stop]
    if isinstance(part, Tensor):
        return part.detach()
    # A copy, for torch takes neither negative strides nor the other order of bytes.
    return torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("="), order="C"))


def as_numpy(values: Matrix) -> NDArray[Any]:
    """A matrix in main memory; bfloat16, which numpy lacks, is widened and keeps its values."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    host = values.detach().cpu()
    result: NDArray[Any] = (host.float() if host.dtype is torch.bfloat16 else host).numpy()
    return result


def require_no_nan(name: str, rows: Tensor, first_row: int = 0) -> None:
    """Refuse NaN, naming the first place: it compares with nothing, so ranks would depend on where it stands.

    Args:
        name: what the message calls the matrix.
        rows: (rows, columns), a part of the matrix.
        first_row: where the part starts.

    Raises:
        ShapeError: there is a NaN.
    """
    missing = torch.isnan(rows)
    if bool(missing.any()):
        row, column = (int(index) for index in missing.nonzero()[0])
        raise ShapeError(
            f"{name}: nan at row {first_row + row}, column {column}. It has no rank; find out who made it."
        )


def require_rows(caption_image: Tensor | NDArray[Any] | list[int], images: int, captions: int) -> Tensor:
    """The row of each caption's image as (captions,) int64 on the CPU.

    Raises:
        ShapeError: not one whole number in [0, images) for each caption.
    """
    given = caption_image.cpu().numpy() if isinstance(caption_image, Tensor) else np.asarray(caption_image)
    if given.shape != (captions,) or given.dtype.kind not in "iu":
        raise ShapeError(
            f"caption_image: {given.dtype} of shape {given.shape}, expected ({captions},) whole numbers: "
            "for each column of the scores the row of its image."
        )
    rows = torch.tensor(given.astype(np.int64))
    outside = ((rows < 0) | (rows >= images)).nonzero()
    if len(outside):
        caption = int(outside[0])
        raise ShapeError(
            f"caption_image: caption {caption} names row {int(rows[caption])}, but there are {images} images."
        )
    return rows
