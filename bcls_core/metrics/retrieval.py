"""Recall at K and ranks of image-text retrieval in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.metrics.arrays import Matrix, require_rows
from bcls_core.metrics.ranks import Integers, best_ranks, positives_of_captions
from bcls_core.metrics.strips import Products, Scores, strips_of

TOP = (1, 5, 10)
CaptionImage = Tensor | NDArray[Any] | list[int]


def retrieval(scores: Scores, caption_image: CaptionImage, *, block: int | None = None) -> dict[str, float]:
    """Recall at 1, 5 and 10, median and mean rank, image to text and text to image.

    An image is answered by the best-ranked of its own captions, a caption by its image. Equal scores are ranked by
    index, the lower first, as a stable sort of the descending scores does; so scores that are all equal earn what the
    order of the gallery happens to give.

    Args:
        scores: (images, captions), higher is closer. NaN is refused, infinities are ordered.
        caption_image: (captions,) row of each caption's image. Any number of captions an image: an image without one
            asks no query, is counted in `i2t/excluded`, and stays in the gallery of the captions.
        block: queries at a time; no result depends on it.

    Returns:
        For each of `i2t` and `t2i`: `/r1`, `/r5`, `/r10` in percent of the queries, `/medr` and `/meanr` (ranks from
        1), `/queries` and `/excluded` (counts); and `rsum`, the sum of the six recalls, at most 600.

    Raises:
        ShapeError: shapes disagree, a caption names a row that is not there, or a score is NaN (names row and column).
    """
    return retrieval_of_ranks(*retrieval_ranks(scores, caption_image, block=block))


def retrieval_from_encodings(
    image_encodings: Matrix, caption_encodings: Matrix, caption_image: CaptionImage
) -> dict[str, float]:
    """`retrieval` for scores that are inner products (`Products`), of which no matrix is made.

    Memory beyond the encodings: two tiles of 1M float32 values. Equal to `retrieval((image_encodings.double() @
    caption_encodings.double().T).float(), caption_image)`, but for the last bit of a sum (`Products`).

    Args:
        image_encodings: (images, dimensions), of unit length where cosines are meant.
        caption_encodings: (captions, dimensions).
        caption_image: (captions,) row of each caption's image.

    Raises:
        ShapeError: shapes disagree, a caption names a row that is not there, or an encoding is NaN or infinite (names
            row and dimension).
    """
    return retrieval(Products(image_encodings, caption_encodings), caption_image)


def retrieval_ranks(
    scores: Scores, caption_image: CaptionImage, *, block: int | None = None
) -> tuple[Integers, Integers]:
    """(images,) and (captions,) ranks from 0 of each query's best positive, -1 for an image without captions."""
    strips = strips_of("scores", scores)
    rows = require_rows(caption_image, strips.images, strips.captions).numpy()
    return best_ranks(strips, *positives_of_captions(rows, strips.images), block=block)


def retrieval_of_ranks(i2t: Integers, t2i: Integers) -> dict[str, float]:
    """The metrics of `retrieval` from each query's best rank, from 0; -1 where a query is left out."""
    result: dict[str, float] = {}
    for direction, ranks in (("i2t", i2t), ("t2i", t2i)):
        asked = ranks[ranks >= 0]
        for k in TOP:
            result[f"{direction}/r{k}"] = 100.0 * int((asked < k).sum()) / len(asked)
        result[f"{direction}/medr"] = float(np.median(asked)) + 1
        result[f"{direction}/meanr"] = float(asked.mean()) + 1
        result[f"{direction}/queries"] = float(len(asked))
        result[f"{direction}/excluded"] = float(len(ranks) - len(asked))
    result["rsum"] = rsum(result)
    return result


def rsum(recalls: dict[str, float], prefix: str = "") -> float:
    """Sum of the six recalls."""
    return sum(recalls[f"{prefix}{direction}/r{k}"] for direction in ("i2t", "t2i") for k in TOP)
