"""Which rows of a model's scores are which images and captions of the COCO 5K test."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import InputError, ShapeError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth
from bcls_core.metrics.ranks import Integers


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
