"""CoSENT: no pair of candidates may be scored against the order of their labels."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, finfo, logcumsumexp, logsumexp, nn

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
from bcls_core.losses.slopes import slopes_of_rows
from bcls_core.workers import Workers


def cosent_loss(
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    *,
    scale: float = 20.0,
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """Soft maximum over the pairs of candidates of a query of how far they are scored against their labels' order.

    For query i with labels R:

        `log(1 + sum_{(j, k): R_ij > R_ik} exp(scale (s_ik - s_ij)))`

    Mean over the queries, both directions halved. A query whose labels are all equal has no pair: it costs 0 with zero
    gradient, and counts in the mean. The sum over pairs is one over candidates, of `exp(-scale s_ij)` times the sum of
    `exp(scale s_ik)` over strictly smaller labels, which is a prefix once a row is sorted by label: time O(B^2 log B),
    memory O(B^2). Differentiable once.

    Source: CoSENT (Su 2022, a blog post on sentence embeddings), formulation as commonly used, but over the pairs
    of a query instead of all pairs of a batch.

    Args:
        scores: (images, captions) similarities, higher is closer; usually cosines in [-1, 1]. Half precisions are
            computed in float32.
        labels: (images, captions) continuous relevance on any scale, compared in their own dtype; positives included.
            No gradient.
        positives: (images, captions) bool; checked, but what is relevant is read from the labels alone.
        scale: inverse temperature, in 1 / units of `scores`.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`; then
            `t2i_labels` is needed too, and `t2i_positives` where `positives` is given.
        t2i_labels: (captions, images).
        t2i_positives: (captions, images) bool.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, something was left out, or (CPU only) a score or a label is not finite.
        ConfigError: a scale that is not above zero.
    """
    require_positive("scale", scale)

    def share(direction: Direction) -> Share:
        costs: Tensor = _RowCosts.apply(direction.scores, direction.relevance, scale)  # type: ignore[no-untyped-call]
        return Share(costs.sum(), len(costs))

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


class CoSENTLoss(nn.Module):
    """`cosent_loss` with its settings held; returns `{"cosent": scalar}`.

    Use it where every order the labels state is to be trusted, however close they are: the worst violations dominate,
    and the cost is that of a sort.

    Example:
        >>> CoSENTLoss(scale=20.0)(scores, relevance)["cosent"].backward()
    """

    def __init__(self, *, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithLabels],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `cosent_loss`."""
        return {"cosent": cosent_loss(scores, labels, positives, scale=self.scale, **transposed)}

    def extra_repr(self) -> str:
        return f"scale={self.scale!r}"


class _RowCosts(torch.autograd.Function):
    """The cost of each row, with its gradient in closed form: that of a cumulative log-sum loses the digits of large
    logits, and so the balance between the two candidates of a pair."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor, scale: float) -> Tensor:
        labels = widened(labels)  # searchsorted takes no half precision everywhere
        ascending, order = labels.contiguous().sort(1)
        smaller = torch.searchsorted(ascending, ascending)
        larger = labels.shape[1] - torch.searchsorted(ascending, ascending, right=True)
        # Only differences count: a common offset would cost digits. The bound keeps differences from overflowing.
        centred = scores - scores.amax(1, keepdim=True)
        logits = (scale * centred).clamp(min=finfo(scores.dtype).min / 4).gather(1, order)
        ahead = _log_sum_of_first(smaller, logits) - logits
        behind = _log_sum_of_first(larger, -logits.flip(1)) + logits
        costs = logsumexp(torch.cat([ahead, ahead.new_zeros(len(ahead), 1)], 1), 1, keepdim=True)
        slopes = scale * (torch.exp(behind - costs) - torch.exp(ahead - costs))
        ctx.save_for_backward(torch.empty_like(slopes).scatter_(1, order, slopes), scores)
        return costs.squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return slopes_of_rows(gradient, *ctx.saved_tensors), None, None


def _log_sum_of_first(counts: Tensor, logits: Tensor) -> Tensor:
    """Log of the sum of exponentials of the first `counts` of a row, for each count; -inf for none."""
    return logcumsumexp(logits, 1).gather(1, (counts - 1).clamp(min=0)).masked_fill(counts == 0, -math.inf)
