"""Triplet ranking losses: the matched caption must win by a margin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Unpack, get_args

import torch.nn.functional as F
from torch import Tensor, exp, finfo, log1p, logsumexp, maximum, nn, where

from bcls_core.losses.checks import require_choice, require_number, require_positive
from bcls_core.losses.directions import (
    ALONE,
    Direction,
    Share,
    TransposedWithIgnored,
    both_directions,
    mean_of_directions,
)
from bcls_core.workers import Workers

Mining = Literal["sum", "hardest", "soft", "selective"]
Variant = Literal["smooth", "logsumexp", "softmax"]
Reduction = Literal["mean", "sum"]


def triplet_loss(
    scores: Tensor,
    positives: Tensor | None = None,
    *,
    mining: Mining = "hardest",
    margin: float = 0.2,
    tau: float = 0.02,
    variant: Variant = "smooth",
    eps: float = 0.01,
    reduction: Reduction = "mean",
    t2i_scores: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    ignored: Tensor | None = None,
    t2i_ignored: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """Hinge that keeps captions of other images `margin` below the matching one, and images of other captions too.

    Each positive pair (i, p) is an anchor, its negatives j are the columns of row i that are no positives of that row.
    With `h_j = [margin - s_ip + s_ij]_+` and `H` the hinge of the best-scored negative, an anchor costs

    - `mining="sum"`: `sum_j h_j`
    - `mining="hardest"`: `H` (VSE++, Faghri et al. 2018)
    - `mining="selective"`: `mean_j h_j` while the best-scored negative is closer than `eps` to the positive, else `H`;
      the decision has no gradient (SelHN, Li et al. 2023: gradients of the hardest vanish where scores are this close)
    - `mining="soft"`: a soft maximum that tends to `H` as tau -> 0, by `variant` (soft negatives after the abstract of
      Li et al. 2022, arXiv 2210.11319; formulation ours):
        - `smooth`: `tau log(1 + sum_j exp((s_ij - s_ip + margin) / tau))`
        - `logsumexp`: `[margin - s_ip + tau log sum_j exp(s_ij / tau)]_+`
        - `softmax`: `sum_j softmax_j(s_ij / tau) h_j`

    An anchor without negatives costs 0 and has no gradient, so a batch of one does too. Memory: a few
    (anchors, gallery) matrices.

    Args:
        scores: (images, captions) similarities, higher is closer; usually cosines in [-1, 1]. Half precisions are
            computed in float32.
        positives: (images, captions) bool, True where the caption was written for the image; the diagonal if None.
        mining: which negatives of an anchor count.
        margin: in units of `scores`.
        tau: temperature of `soft`, in units of `scores`.
        variant: which soft maximum `soft` takes.
        eps: in units of `scores`, for `selective`.
        reduction: `mean`: over the anchors of a direction, both directions halved; `sum`: over all anchors of both
            directions.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`.
        t2i_positives: (captions, images) bool, the positives of `t2i_scores`.
        ignored: (images, captions) bool, True where a pair that is no positive is no negative either, such as one whose
            label says that it might be a match.
        t2i_ignored: (captions, images) bool, likewise of `t2i_scores`.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, positives are missing for a matrix without a diagonal, or (CPU only) a score is not
            finite.
        ConfigError: an unknown mining, variant or reduction, or a tau that is not above zero.
    """
    require_choice("mining", mining, get_args(Mining))
    require_choice("variant", variant, get_args(Variant))
    require_choice("reduction", reduction, get_args(Reduction))
    require_positive("tau", tau)
    require_number("margin", margin)

    def share(direction: Direction) -> Share:
        if mining == "hardest":
            return _against(direction, F.relu, margin, _hardest(direction))
        if mining == "soft" and variant != "softmax":
            pooled = _hardest(direction).detach() + tau * logsumexp(_tempered(direction, tau), 1)
            return _against(direction, _softplus(tau) if variant == "smooth" else F.relu, margin, pooled)
        own, rows = _anchors(direction)
        negative = direction.negatives[rows]
        hinges = F.relu(margin - own[:, None] + direction.scores[rows]).masked_fill(~negative, 0.0)
        if mining == "soft":
            finite = hinges.clamp(max=finfo(hinges.dtype).max / 4)  # the gradient of a weight is a difference of these
            costs = (_tempered(direction, tau).softmax(1)[rows] * finite).sum(1)
        else:
            costs = hinges.sum(1)
        if mining == "selective":
            hardest = _hardest(direction)[rows]
            suspicious = (own - hardest).detach().abs() < eps
            costs = where(suspicious, costs / negative.sum(1).clamp(min=1), F.relu(margin - own + hardest))
        return Share(costs.sum(), _count(direction))

    i2t, t2i = both_directions(
        scores,
        positives,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        ignored=ignored,
        t2i_ignored=t2i_ignored,
    )
    if reduction == "sum":
        return share(i2t).total + share(t2i).total
    return mean_of_directions(i2t, t2i, share, workers)


class TripletLoss(nn.Module):
    """`triplet_loss` with its settings held; returns `{"triplet": scalar}`.

    Use it as the binary part of an objective; `mining="soft"` converges faster from scratch than `hardest`, which may
    collapse.

    Example:
        >>> TripletLoss(mining="soft", tau=0.02)(scores)["triplet"].backward()
    """

    def __init__(
        self,
        mining: Mining = "hardest",
        *,
        margin: float = 0.2,
        tau: float = 0.02,
        variant: Variant = "smooth",
        eps: float = 0.01,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.mining: Mining = mining
        self.margin = margin
        self.tau = tau
        self.variant: Variant = variant
        self.eps = eps
        self.reduction: Reduction = reduction

    def forward(
        self,
        scores: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithIgnored],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `triplet_loss`."""
        loss = triplet_loss(
            scores,
            positives,
            mining=self.mining,
            margin=self.margin,
            tau=self.tau,
            variant=self.variant,
            eps=self.eps,
            reduction=self.reduction,
            **transposed,
        )
        return {"triplet": loss}

    def extra_repr(self) -> str:
        held = ("mining", "margin", "tau", "variant", "eps", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in held)


def _hardest(direction: Direction) -> Tensor:
    """(queries,) the best score of a negative; the lowest finite number where there is none, so that none can win."""
    scores = direction.scores
    return scores.masked_fill(~direction.negatives, finfo(scores.dtype).min).amax(1)


def _tempered(direction: Direction, tau: float) -> Tensor:
    """`(s_ij - max_k s_ik) / tau` of the negatives; dividing differences, no digits go to a common offset."""
    scores = direction.scores
    differences = scores - _hardest(direction).detach()[:, None]
    # The lowest finite number, not -inf: without negatives -inf - -inf would be NaN, and this gives exact zeros.
    return (differences / tau).masked_fill(~direction.negatives, finfo(scores.dtype).min)


def _softplus(tau: float) -> Callable[[Tensor], Tensor]:
    """`tau log(1 + exp(x / tau))`, finite for any finite x."""
    return lambda x: maximum(x, x.new_zeros(())) + tau * log1p(exp(-x.abs() / tau))  # a maximum halves ties: slope 1/2


def _against(direction: Direction, cost: Callable[[Tensor], Tensor], margin: float, reach: Tensor) -> Share:
    """Each anchor against one score (queries,) that stands for all negatives of its row."""
    scores, positives = direction.scores, direction.positives
    own = scores.diagonal()[:, None] if positives is None else scores
    counted = direction.negatives.any(1, keepdim=True)
    if positives is not None:
        counted = counted & positives
    return Share(cost(margin - own + reach[:, None]).masked_fill(~counted, 0.0).sum(), _count(direction))


def _anchors(direction: Direction) -> tuple[Tensor, Tensor | slice]:
    """Scores of the positives (anchors,), and their rows."""
    scores, positives = direction.scores, direction.positives
    if positives is None:
        return scores.diagonal(), slice(None)
    rows, columns = positives.nonzero(as_tuple=True)
    return scores[rows, columns], rows


def _count(direction: Direction) -> Tensor | int:
    """Number of anchors."""
    return len(direction.scores) if direction.positives is None else direction.positives.sum()
