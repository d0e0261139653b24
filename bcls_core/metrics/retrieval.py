"""Recall at K and ranks of image-text retrieval in both directions."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.errors import ShapeError
from bcls_core.metrics.arrays import Matrix, require_matrix, require_no_nan, require_rows, rows_of
from bcls_core.metrics.ranks import Strip, best_positive_ranks

TOP = (1, 5, 10)


def retrieval(
    scores: Matrix, caption_image: Tensor | NDArray[Any] | list[int], *, block: int = 512
) -> dict[str, float]:
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
    images, captions = require_matrix("scores", scores)
    rows = require_rows(caption_image, images, captions)

    def image_strip(start: int, stop: int) -> Tensor:
        strip = rows_of(scores, start, stop)
        require_no_nan("scores", strip, start)
        return strip

    def caption_strip(start: int, stop: int) -> Tensor:
        return rows_of(scores.T, start, stop)

    return _evaluate(image_strip, caption_strip, images, rows, block)


def retrieval_from_encodings(
    image_encodings: Matrix,
    caption_encodings: Matrix,
    caption_image: Tensor | NDArray[Any] | list[int],
    *,
    block: int = 512,
) -> dict[str, float]:
    """`retrieval` for scores that are inner products, which are made and dropped strip by strip.

    A score is the float64 product rounded to float32, so that equal encodings get equal scores wherever they stand, and
    the result is that of `retrieval((image_encodings.double() @ caption_encodings.double().T).float(), caption_image)`:
    exactly so for float16 encodings, whose float64 products lose nothing; for wider ones unless a sum falls within the
    float64 error of the middle between two float32 numbers. Memory: the encodings in float64 and one strip.

    Args:
        image_encodings: (images, dimensions), of unit length where cosines are meant.
        caption_encodings: (captions, dimensions), on the same device.
        caption_image: (captions,) row of each caption's image.
        block: queries at a time.

    Raises:
        ShapeError: shapes disagree, a caption names a row that is not there, or an encoding is NaN (names row and
            dimension).
    """
    images, dimensions = require_matrix("image_encodings", image_encodings)
    captions, caption_dimensions = require_matrix("caption_encodings", caption_encodings)
    if dimensions != caption_dimensions:
        raise ShapeError(f"caption_encodings: {caption_dimensions} dimensions, but image_encodings have {dimensions}.")
    rows = require_rows(caption_image, images, captions)
    image_side = rows_of(image_encodings, 0, images).double()
    caption_side = rows_of(caption_encodings, 0, captions).double()
    require_no_nan("image_encodings", image_side)
    require_no_nan("caption_encodings", caption_side)

    def image_strip(start: int, stop: int) -> Tensor:
        return (image_side[start:stop] @ caption_side.T).float()

    def caption_strip(start: int, stop: int) -> Tensor:
        return (caption_side[start:stop] @ image_side.T).float()

    return _evaluate(image_strip, caption_strip, images, rows, block)


def _evaluate(
    image_strip: Strip, caption_strip: Strip, images: int, caption_image: Tensor, block: int
) -> dict[str, float]:
    captions = torch.arange(len(caption_image))
    i2t = best_positive_ranks(image_strip, images, caption_image, captions, block)
    t2i = best_positive_ranks(caption_strip, len(captions), captions, caption_image, block)
    result: dict[str, float] = {}
    for direction, ranks in (("i2t", i2t), ("t2i", t2i)):
        asked = ranks[ranks >= 0].double()
        for k in TOP:
            result[f"{direction}/r{k}"] = 100.0 * int((asked < k).sum()) / len(asked)
        result[f"{direction}/medr"] = float(asked.quantile(0.5)) + 1
        result[f"{direction}/meanr"] = float(asked.mean()) + 1
        result[f"{direction}/queries"] = float(len(asked))
        result[f"{direction}/excluded"] = float(len(ranks) - len(asked))
    result["rsum"] = sum(result[f"{direction}/r{k}"] for direction in ("i2t", "t2i") for k in TOP)
    return result
