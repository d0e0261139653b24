"""ECCV Caption: how early come all answers, not only the one that was written for the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcls_core.metrics.coco_ground_truth import GroundTruth, Relevance, ground_truth_of
from bcls_core.metrics.coco_rankings import Rankings, both_ranks
from bcls_core.metrics.ranks import Integers, best_of

ECCV_NAMES = ("r1", "r_precision", "map_at_r")


def eccv(i2t: Rankings, t2i: Rankings, *, ground_truth: GroundTruth = None) -> dict[str, float]:
    """R@1, R-Precision and mAP@R against ECCV Caption (Chun et al., ECCV 2022), of rankings of the COCO 5K test.

    With R the number of a query's answers: R-Precision is the share of answers among the first R, and `mAP@R = 1/R
    sum_{r <= R} rel_r P@r` (Musgrave et al. 2020). Only the images and captions that the ground truth asks count: 1,261
    and 1,332 in the published files.

    Args:
        i2t: COCO image id and the COCO caption ids of the whole gallery, best first, for every image asked.
        t2i: COCO caption id and the COCO image ids of the whole gallery, best first, for every caption asked.
        ground_truth: loaded, or its folder; if None, see `CocoGroundTruth.load`.

    Returns:
        For each of `i2t` and `t2i`: `/r1`, `/r_precision`, `/map_at_r` in percent, `/queries` and `/excluded` (counts).

    Raises:
        InputError: rankings are missing, are of another id space or gallery, are truncated, or name something twice; or
            the ground truth cannot be read.
        ShapeError: a ranking is no row of whole numbers.
    """
    truth = ground_truth_of(ground_truth)
    ranks = both_ranks(i2t, t2i, truth, truth.eccv)
    result: dict[str, float] = {}
    for direction, relevance, found in (("i2t", truth.eccv.i2t, ranks[0]), ("t2i", truth.eccv.t2i, ranks[1])):
        values = eccv_queries(relevance, found)
        result |= {f"{direction}/{name}": value for name, value in eccv_means(values).items()}
    return result


def eccv_queries(relevance: Relevance, ranks: Integers) -> dict[str, NDArray[np.float64]]:
    """`r1`, `r_precision` and `map_at_r` of every query, each (queries,) in [0, 1], NaN where it is not asked.

    No ranking is needed: an answer at rank k (from 0) that is the j-th of its query adds j / (k + 1) if k < R.

    Args:
        relevance: one direction's answers.
        ranks: (pairs,) rank from 0 of each of its positives in its query's gallery.
    """
    positives = relevance.positives
    query = positives.query
    ascending = ranks[np.lexsort((ranks, query))]
    ordinal = np.arange(1, len(ranks) + 1) - positives.starts[query]
    within = ascending < relevance.total[query]
    total = np.where(relevance.total > 0, relevance.total, np.nan)

    def share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        quotient: NDArray[np.float64] = np.bincount(query, weights * within, minlength=positives.queries) / total
        return quotient

    first = np.where(relevance.total > 0, best_of(positives, ranks) == 0, np.nan)
    return {
        "r1": first,
        "r_precision": share(np.ones(len(ranks))),
        "map_at_r": share(ordinal / (ascending + 1)),
    }


def eccv_means(values: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """In percent over the queries that are not NaN, with `queries` and `excluded` (counts).

    Args:
        values: `r1`, `r_precision`, `map_at_r`: (queries,) each.
    """
    asked = ~np.isnan(values["r1"])
    result = {name: 100.0 * float(values[name][asked].mean()) for name in ECCV_NAMES}
    return result | {"queries": float(asked.sum()), "excluded": float((~asked).sum())}
