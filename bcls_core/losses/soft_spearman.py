"""Soft Spearman loss: a query's scores and its labels must rank the gallery alike."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from bcls_core.losses.checks import require_positive
from bcls_core.losses.directions import (
    ALONE,
    Direction,
    Share,
    TransposedWithLabels,
    both_directions,
    mean_of_directions,
    widened,
)
from bcls_core.losses.soft_rank import soft_ranks
from bcls_core.workers import Workers

# In ranks. A correlation does not depend on the spread of what it correlates, so its gradient grows without bound as
# the scores of a row become equal; below this spread it stops growing, and the correlation fades to 0.
_LEAST_SPREAD = 1e-3


def soft_spearman_loss(
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    *,
    tau: float = 0.05,
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """One minus the correlation of a query's soft ranks with the ranks of its labels.

        `1 - Pearson(rank(s), rank(R))`,  `rank(s)_j = 1 + sum_{k != j} sigmoid((s_k - s_j) / tau)`

    Equal labels share the mean of their places, exactly. Mean over the queries whose labels are not all equal; for the
    others no correlation is defined, so they are not counted, and without any such query the loss is 0 with zero
    gradient. Equal scores correlate with nothing: cost 1, and a gradient that parts them. As tau -> 0 the cost tends to
    1 - Spearman's coefficient. Both directions are halved. Time O(B^3), memory O(B^2), forward and backward.
    Differentiable once.

    Source: formulation ours, with the smoothed ranks of Qin, Liu and Li 2010 (Information Retrieval 13). Soft ranks
    whose deviations from their mean have a norm below 0.001 are divided by 0.001 instead of that norm.

    Args:
        scores: (images, captions) similarities, higher is closer. Half precisions are computed in float32.
        labels: (images, captions) continuous relevance on any scale, compared in their own dtype; positives included.
            No gradient.
        positives: (images, captions) bool; checked, but what is relevant is read from the labels alone.
        tau: in units of `scores`. The default suits cosines, of which a row spans a few tenths: two scores 0.1 apart
            are told apart by 88 %, and a pair 0.2 apart in the wrong order still has 7 % of the largest gradient.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`; then
            `t2i_labels` is needed too, and `t2i_positives` where `positives` is given.
        t2i_labels: (captions, images).
        t2i_positives: (captions, images) bool.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar in [0, 2]; float32 for half-precision scores. With several workers this one's share: the shares add up to
        the loss.

    Raises:
        ShapeError: shapes disagree, something was left out, or (CPU only) a score or a label is not finite.
        ConfigError: a tau that is not above zero.
    """
    require_positive("tau", tau)

    def share(direction: Direction) -> Share:
        # The mean of either ranking is (n + 1) / 2, whatever the scores: no need to compute it, or to round it.
        middle = (direction.scores.shape[1] + 1) / 2
        found = soft_ranks(direction.scores, tau) - middle
        wanted = _mean_ranks(direction.relevance.detach()).to(found.dtype) - middle
        ordered = wanted.abs().amax(1) > 0
        spread = found.square().sum(1).clamp(min=_LEAST_SPREAD**2).sqrt()
        correlations = (found * wanted).sum(1) / spread / torch.where(ordered, wanted.norm(dim=1), 1.0)
        return Share(torch.where(ordered, 1 - correlations, 0.0).sum(), ordered.sum())

    i2t, t2i = both_directions(
        scores,
        positives,
        labels,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        t2i_labels=t2i_labels,
        diagonal=False,
    )
    return mean_of_directions(i2t, t2i, share, workers)


class SoftSpearmanLoss(nn.Module):
    """`soft_spearman_loss` with its settings held; returns `{"soft-spearman": scalar}`.

    Use it where the whole order counts and the labels' scale means nothing; it weighs a swap by the places between,
    where a Kendall loss counts every pair alike.

    Example:
        >>> SoftSpearmanLoss(tau=0.05)(scores, relevance)["soft-spearman"].backward()
    """

    def __init__(self, *, tau: float = 0.05) -> None:
        super().__init__()
        self.tau = tau

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithLabels],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `soft_spearman_loss`."""
        return {"soft-spearman": soft_spearman_loss(scores, labels, positives, tau=self.tau, **transposed)}

    def extra_repr(self) -> str:
        return f"tau={self.tau!r}"


def _mean_ranks(labels: Tensor) -> Tensor:
    """(rows, columns) places by descending label, 1 the largest; equal labels share the mean of theirs."""
    labels = widened(labels).contiguous()  # searchsorted takes no half precision everywhere
    ascending = labels.sort(1).values.contiguous()
    below = torch.searchsorted(ascending, labels)
    not_above = torch.searchsorted(ascending, labels, right=True)
    return labels.shape[1] - (below + not_above - 1) / 2
