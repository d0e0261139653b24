"""How alike captions are: of one image, of different images at random, and the nearest of another image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bcls_core.audit.labelled import LabelledMeasure, SplitCaptions
from bcls_core.similarity.measure import FloatArray, IntArray

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class SimilaritySpread:
    """Samples of similarities of one measure, each sorted.

    Attributes:
        random: pairs of captions of different images.
        same_image: pairs of captions of one image.
        own_label: per caption the highest similarity to another caption of its image: the label that the caption would
            have for its own image, had it been written for another one.
        nearest: per caption the highest similarity to a caption of another image of its split.
    """

    random: FloatArray
    same_image: FloatArray
    own_label: FloatArray
    nearest: FloatArray

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Name of a sample -> `p1` ... `p99`; without samples that are empty."""
        return {
            name: {f"p{p}": round(float(np.percentile(values, p)), 6) for p in PERCENTILES}
            for name, values in vars(self).items()
            if len(values)
        }


def sample_spread(
    measure: LabelledMeasure, captions: SplitCaptions, *, nearest: FloatArray, pairs: int, seed: int
) -> SimilaritySpread:
    """Draws from one split; the same sample for the same seed.

    Args:
        nearest: (captions,) from the label set's neighbours.
        pairs: how many random pairs to draw, and about how many of one image.
    """
    dice = np.random.default_rng(seed)
    count = len(captions.ids)
    random = np.empty(0, dtype=np.float32)
    if count:
        a, b = dice.integers(count, size=(2, pairs))
        foreign = captions.images[a] != captions.images[b]
        random = measure.pairs(captions.ids[a[foreign]], captions.ids[b[foreign]])
    a, b = _pairs_of_images(captions.images, pairs, dice)
    same = measure.pairs(captions.ids[a], captions.ids[b])
    best: FloatArray = np.full(count, -np.inf, dtype=np.float32)
    np.maximum.at(best, a, same)
    np.maximum.at(best, b, same)
    own = best[best > -np.inf]
    return SimilaritySpread(np.sort(random), np.sort(same), np.sort(own), np.sort(nearest))


def _pairs_of_images(images: IntArray, pairs: int, dice: np.random.Generator) -> tuple[IntArray, IntArray]:
    """All pairs of captions of as many random images as make about `pairs` pairs, as places in `images`."""
    order = np.argsort(images, kind="stable")
    _, starts, counts = np.unique(images[order], return_index=True, return_counts=True)
    several = dice.permutation(np.flatnonzero(counts > 1))
    ends = np.cumsum(counts[several] * (counts[several] - 1) // 2)
    chosen = several[: np.searchsorted(ends, pairs) + 1]
    found = [np.empty((2, 0), dtype=np.int64)]
    for image in chosen.tolist():
        found.append(starts[image] + np.array(np.triu_indices(counts[image], k=1)))
    a, b = np.concatenate(found, axis=1)
    return order[a], order[b]
