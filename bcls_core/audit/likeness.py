"""Whether two pictures show the same: a second look at what their hashes propose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 16
_FLAT = 1.0  # levels of 255; below it there is nothing to correlate
_SAME_GREY = 8.0

Cells = NDArray[np.float64]


def cells_of(picture: Image.Image) -> Cells:
    """(768,) mean colours of 16 x 16 cells, 0 to 255."""
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).reshape(-1)


def likeness(a: Cells, b: Cells) -> float:
    """Correlation of the colours of two pictures, cell by cell: 1 whatever their brightness and contrast.

    Two pictures of one grey each are alike (1) if the grey is the same within 8 of 255 levels, else not (0).
    """
    if max(a.std(), b.std()) < _FLAT:
        return float(abs(a.mean() - b.mean()) <= _SAME_GREY)
    if min(a.std(), b.std()) < _FLAT:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
