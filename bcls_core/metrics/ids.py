"""Ids that tell which entries belong together: whole numbers or texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.errors import ShapeError
from bcls_core.metrics.arrays import as_numpy

Ids = Tensor | NDArray[Any] | Sequence[int] | Sequence[str]


def require_ids(name: str, values: Ids, count: int) -> NDArray[Any]:
    """(count,) ids as whole numbers or as texts.

    Raises:
        ShapeError: not one id for each, or ids of another kind: floats, say, which equal others only by chance.
    """
    ids = as_numpy(values) if isinstance(values, Tensor) else np.asarray(values)
    if ids.dtype.kind == "O" and all(isinstance(value, str) for value in ids.ravel()):
        ids = ids.astype(str)
    if ids.shape != (count,) or ids.dtype.kind not in "iuU":
        raise ShapeError(f"{name}: {ids.dtype} of shape {ids.shape}, expected ({count},) whole numbers or texts.")
    return ids
