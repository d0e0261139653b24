"""Crisscrossed Captions: recall at K where people also judged captions and images that nobody wrote for each other."""

from __future__ import annotations

from bcls_core.metrics.coco_ground_truth import GroundTruth, ground_truth_of
from bcls_core.metrics.coco_rankings import Rankings, both_ranks
from bcls_core.metrics.ranks import best_of
from bcls_core.metrics.retrieval import retrieval_of_ranks


def cxc(i2t: Rankings, t2i: Rankings, *, ground_truth: GroundTruth = None) -> dict[str, float]:
    """Recall at 1, 5 and 10 against CxC (Parekh et al., EACL 2021), of rankings of the COCO 5K test.

    A query is answered by the best-ranked of its positives: pairs of COCO's, and pairs that people scored 3 or higher
    (of 5). The published files ask 5,000 images and 24,972 captions; they hold 10,614 pairs that COCO has not, and lack
    29 of COCO's 25,000.

    Args:
        i2t: COCO image id and the COCO caption ids of the whole gallery, best first, for every image asked.
        t2i: COCO caption id and the COCO image ids of the whole gallery, best first, for every caption asked.
        ground_truth: loaded, or its folder; if None, see `CocoGroundTruth.load`.

    Returns:
        As `retrieval`: for each of `i2t` and `t2i` `/r1`, `/r5`, `/r10` in percent, `/medr`, `/meanr`, `/queries` and
        `/excluded`; and `rsum`.

    Raises:
        InputError: rankings are missing, are of another id space or gallery, are truncated, or name something twice; or
            the ground truth cannot be read.
        ShapeError: a ranking is no row of whole numbers.
    """
    truth = ground_truth_of(ground_truth)
    by_image, by_caption = both_ranks(i2t, t2i, truth, truth.cxc)
    return retrieval_of_ranks(best_of(truth.cxc.i2t.positives, by_image), best_of(truth.cxc.t2i.positives, by_caption))
