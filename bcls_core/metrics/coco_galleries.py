"""Which rows of a model's scores are which images and captions of the COCO 5K test, and the galleries within them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import InputError, ShapeError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth, Relevance
from bcls_core.metrics.ranks import Integers, Positives
from bcls_core.metrics.strips import Products, Strip, Strips


def rows_of_coco(
    ground_truth: CocoGroundTruth, images: int, caption_ids: NDArray[np.integer[Any]], caption_image: Integers
) -> tuple[Integers, Integers]:
    """The row of every image and of every caption of the ground truth.

    Args:
        images: number of rows.
        caption_ids: (captions,) COCO caption ids, from which those of the images follow.
        caption_image: (captions,) row of each caption's image.

    Raises:
        InputError: rows and ground truth are not of the same images, or captions of the ground truth are missing.
        ShapeError: not one whole number for each caption.
    """
    ids = np.asarray(caption_ids)
    if ids.shape != caption_image.shape or ids.dtype.kind not in "iu":
        raise ShapeError(
            f"caption_ids: {ids.dtype} of shape {ids.shape}, expected {caption_image.shape} COCO caption ids."
        )
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        raise InputError(f"caption_ids: {distinct[counts > 1][0]} is there twice. Give each caption once.")
    place = ground_truth.captions.find(ids)
    known = np.flatnonzero(place >= 0)
    caption_row = np.full(len(ground_truth.captions), -1, np.int64)
    caption_row[place[known]] = known
    absent = ground_truth.captions.values[caption_row < 0]
    if len(absent):
        raise InputError(
            f"caption_ids: {len(absent)} of the {len(caption_row):,} captions of the COCO 5K test are not there, "
            f"{absent[0]} for one. These metrics rank its whole gallery, under COCO's own caption ids."
        )
    row, image = caption_image[known], ground_truth.caption_image[place[known]]
    row_image = np.full(images, -1, np.int64)
    row_image[row] = image
    mixed = np.flatnonzero(row_image[row] != image)
    if len(mixed):
        first = ground_truth.images.values[[image[mixed[0]], row_image[row[mixed[0]]]]]
        raise InputError(
            f"caption_image: captions of row {row[mixed[0]]} are of the COCO images {first[0]} and {first[1]}. "
            "The ids are of another dataset, or in another order than the rows."
        )
    foreign = np.flatnonzero(row_image < 0)
    if len(foreign):
        raise InputError(
            f"caption_image: {len(foreign)} of {images} images have no caption in the COCO 5K test, row {foreign[0]} "
            "for one. Leave out images that are not in it."
        )
    image_row = np.full(len(ground_truth.images), -1, np.int64)
    image_row[row_image] = np.arange(images)
    again = np.flatnonzero(image_row[row_image] != np.arange(images))
    if len(again):
        raise InputError(
            f"caption_image: COCO image {ground_truth.images.values[row_image[again[0]]]} is in row {again[0]} and in "
            f"row {image_row[row_image[again[0]]]}. Give each image once."
        )
    return image_row, caption_row


class Together:
    """The positives of several ground truths, to be ranked at once.

    Attributes:
        positives: of all of them, each pair once.
    """

    def __init__(self, relevances: Sequence[Relevance], query_row: Integers, entry_row: Integers) -> None:
        """
        Args:
            relevances: of one direction.
            query_row, entry_row: the row of each query and of each gallery entry of the ground truth.
        """
        pairs = [
            (query_row[relevance.positives.query], entry_row[relevance.positives.entries]) for relevance in relevances
        ]
        query, entry = (np.concatenate(side) for side in zip(*pairs, strict=True))
        self.positives = Positives.of(query, entry, len(query_row))
        gallery = len(entry_row)
        keys = self.positives.query * gallery + self.positives.entries
        self._places = [np.searchsorted(keys, query * gallery + entry) for query, entry in pairs]

    def apart(self, ranks: Integers) -> list[Integers]:
        """(pairs,) ranks of each ground truth's positives, in its own order, from those of `positives`."""
        return [ranks[places] for places in self._places]


def part_of(strips: Strips, images: Integers, captions: Integers) -> Strips:
    """The scores of some images and captions, given as ascending rows; inner products stay inner products."""
    if len(images) == strips.images and len(captions) == strips.captions:
        return strips
    if isinstance(strips, Products):
        return Products(strips.image_encodings[images], strips.caption_encodings[captions])
    return _Part(strips, images, captions)


class _Part:
    """Strips of some rows and columns, read run by run."""

    def __init__(self, strips: Strips, image_rows: Integers, caption_rows: Integers) -> None:
        self._strips, self._rows, self._columns = strips, image_rows, caption_rows
        self.images, self.captions = len(image_rows), len(caption_rows)

    def image_rows(self, start: int, stop: int) -> Strip:
        return _read(self._strips.image_rows, self._rows[start:stop], self._columns)

    def caption_rows(self, start: int, stop: int) -> Strip:
        return _read(self._strips.caption_rows, self._columns[start:stop], self._rows)


def _read(read: Callable[[int, int], Strip], rows: Integers, columns: Integers) -> Strip:
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return np.concatenate([read(int(run[0]), int(run[-1]) + 1)[:, columns] for run in runs])
