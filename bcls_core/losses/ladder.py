"""Ladder loss: what is more relevant must win against what is less so, at each of several levels of relevance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, finfo, nn

from bcls_core.errors import ConfigError
from bcls_core.losses.checks import require_number
from bcls_core.losses.directions import (
    ALONE,
    Direction,
    Share,
    TransposedWithLabels,
    both_directions,
    mean_of_directions,
)
from bcls_core.losses.triplet import Mining, triplet_loss
from bcls_core.workers import Workers


def ladder_loss(
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    *,
    margins: Sequence[float] = (0.2, 0.01),
    thresholds: Sequence[float] = (0.63,),
    weights: Sequence[float] = (0.25,),
    mining: Mining = "hardest",
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """Triplet loss, and for each level l the hinge that keeps what is relevant above what is not, hardest pair only.

    `triplet_loss` with margin a_0, plus the mean over the queries i, both directions halved, of

        `sum_l w_l [a_l - min_{j: R_ij >= t_l} s_ij + max_{j: R_ij < t_l} s_ij]_+`

    with margins a_0, a_1, ..., thresholds t_1 > t_2 > ... and weights w_1, w_2, ... A level at which a query has
    nothing on one of the sides costs it 0. Positives are read by their labels there, as any candidate. Time and memory:
    a few (queries, gallery) matrices per level.

    Source: Ladder Loss for Coherent Visual-Semantic Embedding (Zhou et al. 2020, AAAI), with its hard contrastive
    sampling.

    Args:
        scores: (images, captions) similarities, higher is closer; usually cosines in [-1, 1]. Half precisions are
            computed in float32.
        labels: (images, captions) continuous relevance, 1 for a caption of the image; compared with the thresholds in
            their own dtype. No gradient.
        positives: (images, captions) bool, True where the caption was written for the image; the diagonal if None.
            For the triplet loss only.
        margins: in units of `scores`, the triplet loss's first, then one per level.
        thresholds: in label units, descending.
        weights: of the levels.
        mining: of the triplet loss, whose other settings are its defaults.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`; then
            `t2i_labels` is needed too, and `t2i_positives` where `positives` is given.
        t2i_labels: (captions, images).
        t2i_positives: (captions, images) bool.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, something was left out, or (CPU only) a score or a label is not finite.
        ConfigError: an unknown mining, no level, numbers of margins, thresholds and weights that do not go together, or
            thresholds that do not descend.
    """
    triplet, levels = _terms(
        scores,
        labels,
        positives,
        margins,
        thresholds,
        weights,
        mining,
        t2i_scores=t2i_scores,
        t2i_labels=t2i_labels,
        t2i_positives=t2i_positives,
        workers=workers,
    )
    return triplet + levels


class LadderLoss(nn.Module):
    """`ladder_loss` with its settings held; returns its two parts, `{"triplet": scalar, "ladder": scalar}`.

    Use it where labels tell a few levels of relevance reliably, but not the order within a level.

    Raises:
        ConfigError: as in `ladder_loss`.

    Example:
        >>> terms = LadderLoss(margins=(0.2, 0.01), thresholds=(0.63,), weights=(0.25,))(scores, relevance)
        >>> (terms["triplet"] + terms["ladder"]).backward()
    """

    def __init__(
        self,
        *,
        margins: Sequence[float] = (0.2, 0.01),
        thresholds: Sequence[float] = (0.63,),
        weights: Sequence[float] = (0.25,),
        mining: Mining = "hardest",
    ) -> None:
        super().__init__()
        _require_levels(margins, thresholds, weights)
        self.margins = tuple(margins)
        self.thresholds = tuple(thresholds)
        self.weights = tuple(weights)
        self.mining: Mining = mining

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithLabels],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `ladder_loss`."""
        triplet, levels = _terms(
            scores, labels, positives, self.margins, self.thresholds, self.weights, self.mining, **transposed
        )
        return {"triplet": triplet, "ladder": levels}

    def extra_repr(self) -> str:
        held = ("margins", "thresholds", "weights", "mining")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in held)


def _require_levels(margins: Sequence[float], thresholds: Sequence[float], weights: Sequence[float]) -> None:
    if not 0 < len(thresholds) == len(weights) == len(margins) - 1:
        raise ConfigError(
            f"ladder: {len(margins)} margins, {len(thresholds)} thresholds, {len(weights)} weights, expected at least "
            "one threshold, as many weights, and one margin more."
        )
    for name, numbers in (("margins", margins), ("thresholds", thresholds), ("weights", weights)):
        for place, number in enumerate(numbers):
            require_number(f"{name}[{place}]", number)
    if not all(upper > lower for upper, lower in pairwise(thresholds)):
        raise ConfigError(f"thresholds: {tuple(thresholds)}, expected each to be below the one before.")


def _terms(
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None,
    margins: Sequence[float],
    thresholds: Sequence[float],
    weights: Sequence[float],
    mining: Mining,
    *,
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    workers: Workers = ALONE,
) -> tuple[Tensor, Tensor]:
    """The triplet loss, and the sum over the levels."""
    _require_levels(margins, thresholds, weights)
    i2t, t2i = both_directions(
        scores,
        positives,
        labels,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        t2i_labels=t2i_labels,
    )

    def share(direction: Direction) -> Share:
        costs = [
            weight * _level(direction, margin, threshold)
            for margin, threshold, weight in zip(margins[1:], thresholds, weights, strict=True)
        ]
        return Share(torch.stack(costs).sum(), len(direction.scores))

    triplet = triplet_loss(
        scores,
        positives,
        mining=mining,
        margin=margins[0],
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        workers=workers,
    )
    return triplet, mean_of_directions(i2t, t2i, share, workers)


def _level(direction: Direction, margin: float, threshold: float) -> Tensor:
    """Costs of one level (queries,)."""
    scores, labels = direction.scores, direction.relevance
    relevant = labels >= torch.full((), threshold, dtype=torch.float64, device=labels.device).to(labels.dtype)
    # Filled with finite numbers and left out at the end: inf - inf would be NaN.
    lowest = scores.masked_fill(~relevant, finfo(scores.dtype).max).amin(1)
    highest = scores.masked_fill(relevant, finfo(scores.dtype).min).amax(1)
    both_sides = relevant.any(1) & ~relevant.all(1)
    return F.relu(margin - lowest + highest).masked_fill(~both_sides, 0.0)
