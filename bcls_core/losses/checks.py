"""What every loss refuses before it computes anything."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from bcls_core.errors import ConfigError, ShapeError

_SMALLEST = torch.finfo(torch.float32).tiny


def require_finite(name: str, values: Tensor) -> None:
    """Refuse NaN and infinity in a (rows, columns) matrix, naming the first place they stand at.

    On an accelerator the answer has to be waited for, and a compiled graph cannot branch on it, so the losses call this
    by themselves for CPU tensors in eager mode only; elsewhere a NaN score makes the loss NaN or leaves it out, and
    whoever watches the loss and the gradient norm can call this to learn where it came from.

    Raises:
        ShapeError: a value is NaN or infinite.
    """
    if isfinite(float(values.sum())):  # takes no memory; that a sum overflows proves nothing
        return
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    row, column = (int(index) for index in (~finite).nonzero()[0])
    raise ShapeError(
        f"{name}: {values[row, column].item()} at row {row}, column {column}; {int((~finite).sum())} of the "
        f"{values.numel()} values of this {tuple(values.shape)} matrix are not finite. No loss is defined there: if a "
        "student made it, training has diverged; lower the learning rate or raise the temperature."
    )


def require_matrix(name: str, values: Tensor) -> None:
    """Refuse what is not a non-empty floating (rows, columns) matrix or, on the CPU in eager mode, not finite.

    Raises:
        ShapeError: any of these.
    """
    if values.ndim != 2 or values.numel() == 0:
        raise ShapeError(
            f"{name}: shape {tuple(values.shape)}, expected a matrix with at least one row and one column."
        )
    if not values.is_floating_point():
        raise ShapeError(f"{name}: {values.dtype}, expected a floating type; convert with .float().")
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        require_finite(name, values.detach())


def require_mask(name: str, mask: Tensor, scores_name: str, scores: Tensor) -> None:
    """Refuse a mask that is not boolean, or not of the shape of the scores it speaks of.

    Raises:
        ShapeError: either of these.
    """
    if mask.dtype is not torch.bool:
        raise ShapeError(f"{name}: {mask.dtype}, expected torch.bool; convert with .bool().")
    require_same_shape(name, mask, scores_name, scores)


def require_same_shape(name: str, values: Tensor, scores_name: str, scores: Tensor) -> None:
    """Raises ShapeError unless both have one shape."""
    if values.shape != scores.shape:
        hint = " It looks transposed." if values.shape == scores.shape[::-1] else ""
        raise ShapeError(f"{name}: shape {tuple(values.shape)}, but {scores_name} has {tuple(scores.shape)}.{hint}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name}: {value!r}, expected one of {', '.join(choices)}.")


def require_positive(name: str, value: float) -> None:
    """Raises ConfigError unless `value` is above zero, and neither it nor its reciprocal too large for float32."""
    if not _SMALLEST <= value <= 1 / _SMALLEST:
        raise ConfigError(
            f"{name}: {value}, expected a number above 0, between {_SMALLEST:.0e} and {1 / _SMALLEST:.0e}."
        )


def require_number(name: str, value: float) -> None:
    """Raises ConfigError unless `value` is finite."""
    if not isfinite(value):
        raise ConfigError(f"{name}: {value}, expected a finite number.")
