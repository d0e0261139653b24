"""Smooth NDCG: retrieve what is relevant first, by degrees of relevance."""

from __future__ import annotations

import math
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
)
from bcls_core.losses.soft_rank import soft_ranks
from bcls_core.workers import Workers

# 2^100 times any number of columns is still a float32.
_LARGEST_EXPONENT = 100.0


def s_ndcg_loss(
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    *,
    tau: float = 0.01,
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """One minus the normalised discounted cumulative gain of a query's gallery, with soft ranks for places.

    For a query with labels R, exponents `g_j = (1 + R_j) / 2` and gains `2^g_j - 1`:

        `1 - sum_j (2^g_j - 1) / log2(1 + rank_j) / IDCG`,  `rank_j = 1 + sum_{k != j} sigmoid((s_k - s_j) / tau)`

    where IDCG is the same sum over the places 1, 2, ... in the order of the labels; it tends to 1 - NDCG as tau -> 0
    where no scores are tied. Mean over the queries, both directions halved. A query whose gains are all equal has no
    order to learn, so it costs 0 with zero gradient, and counts in the mean; so does one without an ideal gain (all
    labels -1). Time O(B^3), memory O(B^2), forward and backward. Differentiable once.

    Source: the smoothed ranks of Qin, Liu and Li 2010 (Information Retrieval 13) in NDCG with exponential gains; the
    exponents, which place cosine labels in [0, 1], are ours.

    Args:
        scores: (images, captions) similarities, higher is closer. Half precisions are computed in float32.
        labels: (images, captions) continuous relevance, usually cosines in [-1, 1], positives included. Those below -1
            earn nothing, as -1 does; those above 1 are used as given, up to 199, where the gain leaves float32's range.
            No gradient.
        positives: (images, captions) bool; checked, but what is relevant is read from the labels alone.
        tau: in units of `scores`; the smaller, the closer to NDCG, and the fewer pairs have a gradient.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`; then
            `t2i_labels` is needed too, and `t2i_positives` where `positives` is given.
        t2i_labels: (captions, images).
        t2i_positives: (captions, images) bool.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar in [0, 1); float32 for half-precision scores. With several workers this one's share: the shares add up to
        the loss.

    Raises:
        ShapeError: shapes disagree, something was left out, or (CPU only) a score or a label is not finite.
        ConfigError: a tau that is not above zero.
    """
    require_positive("tau", tau)

    def share(direction: Direction) -> Share:
        gains = _gains(direction.relevance.detach(), direction.scores.dtype)
        places = torch.arange(1, gains.shape[1] + 1, dtype=gains.dtype, device=gains.device)
        ideal = (gains.sort(1, descending=True).values / torch.log2(1 + places)).sum(1, keepdim=True)
        ordered = gains.amax(1, keepdim=True) > gains.amin(1, keepdim=True)
        parts = torch.where(ordered, gains / ideal, 0.0)
        found = parts / torch.log2(1 + soft_ranks(direction.scores, tau))
        return Share(ordered.sum() - found.sum(), len(gains))

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


class SmoothNDCGLoss(nn.Module):
    """`s_ndcg_loss` with its settings held; returns `{"s-ndcg": scalar}`.

    Use it where the top of the ranking matters more than the rest: a swap among the last places costs almost nothing.

    Example:
        >>> SmoothNDCGLoss(tau=0.01)(scores, relevance)["s-ndcg"].backward()
    """

    def __init__(self, *, tau: float = 0.01) -> None:
        super().__init__()
        self.tau = tau

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithLabels],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `s_ndcg_loss`."""
        return {"s-ndcg": s_ndcg_loss(scores, labels, positives, tau=self.tau, **transposed)}

    def extra_repr(self) -> str:
        return f"tau={self.tau!r}"


def _gains(labels: Tensor, dtype: torch.dtype) -> Tensor:
    exponents = ((1 + labels.to(dtype)) / 2).clamp(0.0, _LARGEST_EXPONENT)
    return torch.expm1(exponents * math.log(2))
