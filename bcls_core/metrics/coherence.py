"""Are the best few of a gallery the most relevant ones, and in the right order: CS@K and NCS@K."""

from __future__ import annotations

from collections.abc import Sequence

from bcls_core.metrics.arrays import require_rows
from bcls_core.metrics.graded import graded_queries, mean_of_defined
from bcls_core.metrics.ranks import positives_of_captions
from bcls_core.metrics.retrieval import CaptionImage
from bcls_core.metrics.strips import Scores, strips_of

TOP = (10, 100)


def coherence(
    scores: Scores,
    labels: Scores,
    caption_image: CaptionImage | None = None,
    *,
    ks: Sequence[int] = TOP,
    block: int | None = None,
) -> dict[str, float]:
    """Coherent score CS@K and normalised cumulative similarity NCS@K, in both directions.

    CS@K is Kendall's tau-b of scores and labels over the K best by score. NCS@K is the mean label of the K best by
    score over that of the K best by label, where a query's own entries (an image's captions, a caption's image) take no
    part. Equal scores are ranked by index, the lower first; a K that exceeds the gallery takes all of it. A query
    without a value (CS: scores or labels all equal; NCS: the best labels are not positive) is left out of the mean.

    Args:
        scores: (images, captions), higher is closer; infinities are ordered.
        labels: (images, captions), higher is more relevant.
        caption_image: (captions,) row of each caption's image; without it there is no NCS.
        ks: the K.
        block: queries at a time; no result depends on it.

    Returns:
        For each of `i2t` and `t2i` and each K: `/cs10` in [-1, 1] and `/ncs10`, at most 1; NaN where no query is left;
        `/cs10_queries` and `/ncs10_queries`, the number of queries in the mean.

    Raises:
        ShapeError: shapes disagree, a caption names a row that is not there, or a value is NaN (names row and column).
        ConfigError: a K below 1.
    """
    strips = strips_of("scores", scores)
    own = None
    if caption_image is not None:
        rows = require_rows(caption_image, strips.images, strips.captions).numpy()
        own = positives_of_captions(rows, strips.images)
    result: dict[str, float] = {}
    for direction, queries in zip(("i2t", "t2i"), graded_queries(strips, labels, own, ks=ks, block=block), strict=True):
        figures = {f"cs{k}": values for k, values in queries.coherence.items()}
        if own is not None:
            figures |= {f"ncs{k}": values for k, values in queries.gain.items()}
        for name, values in figures.items():
            result[f"{direction}/{name}"], result[f"{direction}/{name}_queries"] = mean_of_defined(values)
    return result
