"""COCO 1K and 5K, CxC and ECCV Caption of one model together: every score is made once, and once more in its fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.metrics.arrays import Matrix, require_rows
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth, GroundTruth, Relevance, ground_truth_of
from bcls_core.metrics.coco_rankings import Direction, Rankings, ordered
from bcls_core.metrics.coco_rows import rows_of_coco
from bcls_core.metrics.eccv import eccv_means, eccv_queries
from bcls_core.metrics.ranks import Asked, Integers, Positives, ranks_of
from bcls_core.metrics.retrieval import CaptionImage, retrieval_of_ranks
from bcls_core.metrics.strips import Products, Scores, strips_of

Floats = NDArray[np.float64]

RECALLS = ("coco-1k", "coco-5k", "cxc")


def coco_recalls(i2t: Rankings, t2i: Rankings, *, ground_truth: GroundTruth = None) -> dict[str, float]:
    """Recall at 1, 5 and 10 on COCO 5K, and on COCO 1K, of rankings of the COCO 5K test.

    COCO 1K is the mean of five folds, each a gallery of its own; they have equally many queries, so that it is the mean
    over all queries of their ranks within their folds. In its `medr` the queries of all folds are pooled.

    Args:
        i2t: every COCO image id and the COCO caption ids of the whole gallery, best first.
        t2i: every COCO caption id and the COCO image ids of the whole gallery, best first.
        ground_truth: loaded, or its folder; if None, see `CocoGroundTruth.load`.

    Returns:
        The figures of `retrieval`, such as `i2t/r1` (percent) and `rsum`, under `1k/` and under `5k/`.

    Raises:
        InputError: rankings are missing, are of another id space or gallery, are truncated, or name something twice; or
            the ground truth cannot be read.
        ShapeError: a ranking is no row of whole numbers.
    """
    truth = ground_truth_of(ground_truth)
    whole_i2t, fold_i2t = _best_in_rankings("i2t", i2t, truth)
    whole_t2i, fold_t2i = _best_in_rankings("t2i", t2i, truth)
    result: dict[str, float] = {}
    for name, ranks in (("1k", (fold_i2t, fold_t2i)), ("5k", (whole_i2t, whole_t2i))):
        result |= {f"{name}/{figure}": value for figure, value in retrieval_of_ranks(*ranks).items()}
    return result


@dataclass(frozen=True, eq=False)
class CocoQueries:
    """What each query of the COCO 5K test contributes, in the order in which images and captions were given.

    Attributes:
        per_image: name and (images,) float64: `coco-1k/rank`, `coco-5k/rank`, `cxc/rank`, the rank of the best
            positive, from 0; `eccv/r1`, `eccv/r_precision`, `eccv/map_at_r` in [0, 1]. NaN where the ground truth does
            not ask.
        per_caption: the same names, (captions,); NaN also where a caption is not in the ground truth's gallery.
        left_out: number of such captions.
    """

    per_image: dict[str, Floats]
    per_caption: dict[str, Floats]
    left_out: int

    def metrics(self) -> dict[str, float]:
        """Means over the queries that are not NaN.

        `coco-1k/`, `coco-5k/` and `cxc/` with the names of `retrieval`, such as `coco-5k/i2t/r1` and `coco-5k/rsum`,
        `eccv/` with those of `eccv`. COCO 1K is the mean of five folds, which is the mean over all queries, since the
        folds have equally many; in its `medr` they are pooled. `excluded` counts rows that are NaN.
        """
        result: dict[str, float] = {}
        for name in RECALLS:
            ranks = (self.per_image[f"{name}/rank"], self.per_caption[f"{name}/rank"])
            by_image, by_caption = (np.where(np.isnan(part), -1, part).astype(np.int64) for part in ranks)
            result |= {f"{name}/{key}": value for key, value in retrieval_of_ranks(by_image, by_caption).items()}
        for direction, values in (("i2t", self.per_image), ("t2i", self.per_caption)):
            own = {name.removeprefix("eccv/"): part for name, part in values.items() if name.startswith("eccv/")}
            result |= {f"eccv/{direction}/{name}": value for name, value in eccv_means(own).items()}
        return result


def coco_queries(
    image_encodings: Matrix,
    caption_encodings: Matrix,
    caption_ids: NDArray[np.integer[Any]],
    caption_image: CaptionImage,
    *,
    ground_truth: GroundTruth = None,
) -> CocoQueries:
    """`coco_queries_from_scores` for scores that are inner products (`Products`).

    Args:
        image_encodings: (images, dimensions), of unit length where cosines are meant.
        caption_encodings: (captions, dimensions).
        caption_ids, caption_image, ground_truth: as there.

    Raises:
        InputError: as there.
        ShapeError: as there, or an encoding is NaN or infinite (names row and dimension).
    """
    scores = Products(image_encodings, caption_encodings)
    return coco_queries_from_scores(scores, caption_ids, caption_image, ground_truth=ground_truth)


def coco_queries_from_scores(
    scores: Scores,
    caption_ids: NDArray[np.integer[Any]],
    caption_image: CaptionImage,
    *,
    ground_truth: GroundTruth = None,
) -> CocoQueries:
    """What every image and caption of the COCO 5K test contributes to COCO 1K, COCO 5K, CxC and ECCV Caption.

    The gallery is exactly the images and captions of the ground truth. Ten captions more are in the published split of
    the same images; such captions are left out. Equal scores are ranked by row, the lower first.

    Args:
        scores: (images, captions), higher is closer; a matrix or strips.
        caption_ids: (captions,) COCO caption ids, from which those of the images follow.
        caption_image: (captions,) row of each caption's image.
        ground_truth: loaded, or its folder; if None, see `CocoGroundTruth.load`.

    Raises:
        InputError: captions of the ground truth are missing, an id is there twice, captions of one row are of two COCO
            images or the other way round, or an image has no caption of the ground truth.
        ShapeError: shapes disagree, or a score is NaN (names row and column).
    """
    truth = ground_truth_of(ground_truth)
    strips = strips_of("scores", scores)
    rows = require_rows(caption_image, strips.images, strips.captions).numpy()
    image_row, caption_row = rows_of_coco(truth, strips.images, caption_ids, rows)
    images = _Side(image_row, strips.images, truth.image_fold)
    captions = _Side(caption_row, strips.captions, truth.caption_fold)
    i2t, t2i = (truth.coco.i2t, truth.cxc.i2t, truth.eccv.i2t), (truth.coco.t2i, truth.cxc.t2i, truth.eccv.t2i)
    by_image, by_caption = ranks_of(strips, _asked(i2t, images, captions), _asked(t2i, captions, images))
    return CocoQueries(
        _contributions(truth.eccv.i2t, images, captions, by_image),
        _contributions(truth.eccv.t2i, captions, images, by_caption),
        strips.captions - len(caption_row),
    )


class _Side:
    """Where the images, or the captions, of the ground truth are among the given rows.

    Attributes:
        row: (n,) row of each.
        length: number of rows.
        whole: (length,) int32, 0 in the gallery, -1 for a row that is not in the ground truth; None if all are in it.
        fold: (length,) int32, the COCO 1K gallery of each row; -1 as there.
    """

    def __init__(self, row: Integers, length: int, fold: Integers) -> None:
        self.row, self.length = row, length
        self.fold = np.full(length, -1, np.int32)
        self.fold[row] = fold
        self.whole = np.minimum(self.fold, 0)


def _asked(relevances: Sequence[Relevance], queries: _Side, gallery: _Side) -> list[Asked]:
    """Best of COCO 5K and CxC, all of ECCV Caption, best of COCO 1K: of one direction, in the given rows."""
    coco, cxc, eccv = (
        Positives.of(queries.row[each.positives.query], gallery.row[each.positives.entries], queries.length)
        for each in relevances
    )
    parts = (None, None) if (gallery.whole == 0).all() else (queries.whole, gallery.whole)
    return [
        Asked(coco, parts[0], parts[1], best=True),
        Asked(cxc, parts[0], parts[1], best=True),
        Asked(eccv, parts[0], parts[1]),
        Asked(coco, queries.fold, gallery.fold, best=True),
    ]


def _contributions(eccv: Relevance, queries: _Side, gallery: _Side, ranks: Sequence[Integers]) -> dict[str, Floats]:
    """Of the queries in their rows, from the ranks that `_asked` asked for."""
    coco, cxc, of_eccv, fold = ranks
    result = {
        name: np.where(best < 0, np.nan, best).astype(np.float64)
        for name, best in (("coco-5k/rank", coco), ("cxc/rank", cxc), ("coco-1k/rank", fold))
    }
    # `_asked` sorted the pairs by rows; the relevance has them by places.
    places = eccv.positives
    pairs = np.lexsort((gallery.row[places.entries], queries.row[places.query]))
    in_places = np.empty_like(of_eccv)
    in_places[pairs] = of_eccv
    for name, values in eccv_queries(eccv, in_places).items():
        result[f"eccv/{name}"] = _spread(values, queries.row, queries.length)
    return result


def _spread(values: Floats, rows: Integers, length: int) -> Floats:
    """From the order of the ground truth to that of the given rows."""
    spread = np.full(length, np.nan)
    spread[rows] = values
    return spread


def _best_in_rankings(direction: Direction, rankings: Rankings, truth: CocoGroundTruth) -> tuple[Integers, Integers]:
    """(queries,) rank of each query's best positive in the whole gallery, and among what is in the query's fold.

    A positive is in the fold of its query, so that the best is the same in both.
    """
    relevance, query_fold, entry_fold = {
        "i2t": (truth.coco.i2t, truth.image_fold, truth.caption_fold),
        "t2i": (truth.coco.t2i, truth.caption_fold, truth.image_fold),
    }[direction]
    positives = relevance.positives
    whole, in_fold = np.full((2, positives.queries), -1, np.int64)
    for query, order, ranks in ordered(direction, rankings, truth, relevance.asked):
        own = positives.entries[positives.starts[query] : positives.starts[query + 1]]
        whole[query] = ranks[own].min()
        in_fold[query] = np.count_nonzero(entry_fold[order[: whole[query]]] == query_fold[query])
    return whole, in_fold
