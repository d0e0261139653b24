"""What can be said of pictures without weights: histograms of their gradients and of their colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcls_core.data.pixels import load_all
from bcls_core.teachers.image import Rows, unit_rows

DESCRIPTORS_VERSION = 1
"""Raised by hand whenever stored rows change."""

_SIDE, _CELL, _BLOCK, _ORIENTATIONS = 64, 8, 2, 9
_GRID = 2
_BINS = (8, 4, 4)  # of hue, saturation and value


class Descriptors:
    """Shapes and colours, half and half: a histogram of oriented gradients (Dalal and Triggs 2005, scikit-image's) and
    the square roots of HSV histograms in the quarters of a picture, each part of unit length.

    Attributes:
        dimension: numbers in a row.
        fingerprint: all that determines the rows.
    """

    dimension = (_SIDE // _CELL - _BLOCK + 1) ** 2 * _BLOCK**2 * _ORIENTATIONS + _GRID**2 * int(np.prod(_BINS))

    def __init__(self) -> None:
        self.fingerprint = descriptors_fingerprint()

    def encode(self, images: Sequence[bytes], names: Sequence[str]) -> Rows:
        """(images, dimension) rows of unit length; pictures are looked at as squares of 64 pixels.

        Raises:
            CorpusError: a picture cannot be decoded; names it.
        """
        wide = np.empty((len(images), self.dimension))
        for row, picture in enumerate(load_all(images, names)):
            wide[row] = _described(picture.resize((_SIDE, _SIDE), Image.Resampling.BOX))
        return unit_rows(wide, names, "its descriptors are")


def descriptors_fingerprint() -> dict[str, Any]:
    """All that determines the rows."""
    return {"version": DESCRIPTORS_VERSION, "kind": "descriptors"}


def _described(picture: Image.Image) -> NDArray[np.float64]:
    # Imported here: who reads labels needs no image library.
    from skimage.feature import hog

    cells, blocks = (_CELL, _CELL), (_BLOCK, _BLOCK)
    gradients = hog(
        np.asarray(picture.convert("L"), dtype=np.float64) / 255,
        orientations=_ORIENTATIONS,
        pixels_per_cell=cells,
        cells_per_block=blocks,
        block_norm="L2-Hys",
    )
    colours = np.concatenate([np.sqrt(_colours(quarter)) for quarter in _quarters(np.asarray(picture.convert("HSV")))])
    norm = np.linalg.norm(gradients)  # 0 of a picture of one colour
    return np.concatenate([gradients / (norm if norm > 0 else 1.0), colours / np.linalg.norm(colours)])


def _quarters(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    half = _SIDE // _GRID
    starts = range(0, _SIDE, half)
    return [pixels[top : top + half, left : left + half].reshape(-1, 3) for top in starts for left in starts]


def _colours(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shares of the colours, by bins."""
    binned = [pixels[:, channel].astype(np.int64) * bins // 256 for channel, bins in enumerate(_BINS)]
    counts = np.bincount(np.ravel_multi_index(tuple(binned), _BINS), minlength=int(np.prod(_BINS)))
    return counts / len(pixels)
