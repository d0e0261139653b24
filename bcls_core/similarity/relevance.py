"""Continuous labels: how well a caption describes an image, judged by the image's own captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ShapeError
from bcls_core.similarity.measure import FloatArray, IntArray, Rows, RowSimilarity

_TILE_CELLS = 1 << 22  # similarities computed at once: bounds memory when a whole gallery is asked for


@dataclass(frozen=True)
class ImageCaptions(Generic[Rows]):
    """The captions of some images, image after image.

    Attributes:
        representations: rows of all their captions.
        offsets: (images + 1,) the captions of image i are rows offsets[i] to offsets[i + 1].
    """

    representations: Rows
    offsets: IntArray


@dataclass(frozen=True)
class GalleryCaptions(Generic[Rows]):
    """The captions that are judged.

    Attributes:
        representations: one row a caption.
        own: (images, captions) True where the caption was written for the image.
    """

    representations: Rows
    own: NDArray[np.bool_]


class Relevance(Protocol[Rows]):
    """Relevance of captions to images under one measure."""

    def rows(self, images: ImageCaptions[Rows], captions: GalleryCaptions[Rows]) -> FloatArray:
        """(images, captions) relevance, 1 where the caption is the image's own."""
        ...


class CaptionRelevance(Generic[Rows]):
    """`R_ij = max over the captions c of image i of sim(c, caption j)`, and 1 for the image's own captions.

    Source: continuous labels of BCLS (Li et al. 2022), with any caption-similarity measure in the place of the cosine.
    """

    def __init__(self, similarity: RowSimilarity[Rows]) -> None:
        self._similarity = similarity

    def rows(self, images: ImageCaptions[Rows], captions: GalleryCaptions[Rows]) -> FloatArray:
        """(images, captions) relevance.

        Raises:
            ShapeError: an image has no caption, or shapes disagree.
        """
        offsets, shape = images.offsets, captions.own.shape
        if shape[0] != len(offsets) - 1:
            raise ShapeError(f"found {len(offsets) - 1} images, and rows for {shape[0]} in `own`. They must agree.")
        if (np.diff(offsets) < 1).any():
            empty = int(np.argmax(np.diff(offsets) < 1))
            raise ShapeError(f"image {empty} has no caption, so its relevance is undefined. Drop the image.")
        relevance = np.empty(shape, dtype=np.float32)
        most = max(1, _TILE_CELLS // max(1, shape[1]))
        first = 0
        while first < shape[0]:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1)
            block = images.representations[offsets[first] : offsets[last]]  # type: ignore[index]
            # The caption judged is the candidate, the image's own are its references.
            similarities = self._similarity.matrix(captions.representations, block)
            segments = offsets[first:last] - offsets[first]
            relevance[first:last] = np.maximum.reduceat(similarities, segments, axis=1).T
            first = last
        relevance[captions.own] = 1.0
        return relevance
