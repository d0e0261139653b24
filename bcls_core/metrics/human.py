"""Human relevance: do scores order pairs of image and caption as people do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.metrics.arrays import as_numpy
from bcls_core.metrics.ids import Ids, require_ids
from bcls_core.metrics.spearman import spearman

Values = Tensor | NDArray[Any] | Sequence[float]


@dataclass(frozen=True, eq=False)
class RatedPairs:
    """Rated pairs of an image with the caption of another one.

    Attributes:
        scores: (pairs,) float64, a model's.
        ratings: (pairs,) float64, people's.
        image: (pairs,) id of each pair's image, a whole number or a text; the pairs of one image are not independent.
        excluded: number of pairs left out because the caption was written for the image.
        missing: number of ratings of images or captions that are not in the gallery.
    """

    scores: NDArray[np.float64]
    ratings: NDArray[np.float64]
    image: NDArray[Any]
    excluded: int
    missing: int = 0


def human_relevance(
    scores: Values,
    ratings: Values,
    image: Ids,
    caption_image: Ids | None = None,
    *,
    own: Tensor | NDArray[np.bool_] | Sequence[bool] | None = None,
) -> dict[str, float]:
    """Spearman's rho of scores and human ratings over pairs of an image with the caption of another one.

    A pair of an image with its own caption is excluded: matching those is what training is for, and they alone make a
    high correlation. What is left asks for more: an order among captions that were all written for something else, as
    with the ratings of Flickr8k by Hodosh, Young and Hockenmaier (JAIR 47, 2013).

    Args:
        scores: (pairs,) of each rated pair, higher is closer; infinities are ordered.
        ratings: (pairs,) higher is more relevant, on any scale.
        image: (pairs,) id or row of each pair's image.
        caption_image: (pairs,) the image each pair's caption was written for, as `image` names them.
        own: (pairs,) bool, True where the caption was written for the image; instead of `caption_image`.

    Returns:
        `spearman`, pooled over all pairs that are not excluded, ties at their average rank, in [-1, 1], NaN if all
        their scores or all their ratings are equal; `per_image_spearman`, the mean over images whose own pairs have a
        correlation, NaN if none has; and the counts `pairs`, `excluded`, `images` (of the pooled figure) and
        `per_image_images`.

    Raises:
        ConfigError: not exactly one of `caption_image` and `own`.
        ShapeError: no pairs, lengths disagree, ids of two kinds, or a NaN (names the pair).
    """
    pairs = rated_pairs(scores, ratings, image, caption_image, own=own)
    images, correlations = per_image_correlations(pairs)
    defined = correlations[~np.isnan(correlations)]
    return {
        "spearman": spearman(pairs.scores, pairs.ratings),
        "per_image_spearman": float(defined.mean()) if len(defined) else float("nan"),
        "pairs": float(len(pairs.scores)),
        "excluded": float(pairs.excluded),
        "images": float(len(images)),
        "per_image_images": float(len(defined)),
    }


def rated_pairs(
    scores: Values,
    ratings: Values,
    image: Ids,
    caption_image: Ids | None = None,
    *,
    own: Tensor | NDArray[np.bool_] | Sequence[bool] | None = None,
) -> RatedPairs:
    """The pairs that `human_relevance` counts, in their order; its arguments, and its errors."""
    if (caption_image is None) == (own is None):
        found = "neither" if own is None else "both"
        raise ConfigError(
            f"human relevance: {found} of caption_image and own given. Give one: which captions to exclude."
        )
    s = _values("scores", scores)
    r = _values("ratings", ratings)
    if len(s) != len(r):
        raise ShapeError(f"ratings: {len(r)} pairs, but scores have {len(s)}.")
    rated = require_ids("image", image, len(s))
    excluded = _own_flags(own, len(s)) if caption_image is None else _same(rated, caption_image)
    return RatedPairs(s[~excluded], r[~excluded], rated[~excluded], int(excluded.sum()))


def per_image_correlations(pairs: RatedPairs) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Spearman's rho of each image's pairs.

    Returns:
        (images,) ids in ascending order, and (images,) correlations, NaN for an image with fewer than two pairs or
        with equal scores or ratings.
    """
    images, inverse = np.unique(pairs.image, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(len(images) + 1))
    of_image = [order[bounds[index] : bounds[index + 1]] for index in range(len(images))]
    values = [spearman(pairs.scores[members], pairs.ratings[members]) for members in of_image]
    return images, np.array(values, dtype=np.float64)


def _values(name: str, given: Values) -> NDArray[np.float64]:
    values = np.array(as_numpy(given) if isinstance(given, Tensor) else given, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ShapeError(f"{name}: shape {values.shape}, expected (pairs,) and at least one pair.")
    missing = np.isnan(values)
    if missing.any():
        raise ShapeError(f"{name}: nan at pair {int(missing.argmax())}. It has no rank; find out who made it.")
    return values


def _own_flags(own: Any, pairs: int) -> NDArray[np.bool_]:
    flags = as_numpy(own) if isinstance(own, Tensor) else np.asarray(own)
    if flags.shape != (pairs,) or flags.dtype != np.bool_:
        raise ShapeError(f"own: {flags.dtype} of shape {flags.shape}, expected ({pairs},) bool.")
    return flags


def _same(image: NDArray[Any], caption_image: Ids) -> NDArray[np.bool_]:
    written_for = require_ids("caption_image", caption_image, len(image))
    if (image.dtype.kind == "U") != (written_for.dtype.kind == "U"):
        raise ShapeError(f"caption_image: {written_for.dtype}, but image is {image.dtype}. Name images the same way.")
    same: NDArray[np.bool_] = image == written_for
    return same
