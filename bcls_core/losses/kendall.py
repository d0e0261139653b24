"""Kendall ranking loss: scores must order a gallery as continuous labels do."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from bcls_core.losses.checks import require_choice, require_positive
from bcls_core.losses.directions import Direction, both_directions
from bcls_core.losses.discordance import Surrogate, row_discordance
from bcls_core.losses.gap import resolve_gap

Sampling = Literal["exact"]
Normalise = Literal["batch", "query"]


def kendall_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    gap: float | str = 0.0,
    surrogate: Surrogate = "hinge",
    margin: float = 0.0,
    tau: float = 0.05,
    sampling: Sampling = "exact",
    normalise: Normalise = "batch",
    positives: Tensor | None = None,
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
) -> Tensor:
    """Mean discordance between scores and labels over the pairs of candidates that the labels order clearly.

    For query i, `D_i = {(j, k): R_ij - R_ik > gap}`, where the difference is the one rounded in the labels' own dtype
    and `gap` is taken in that dtype too. A pair costs, with `d = s_ik - s_ij + margin`,

    - `hinge`: `[d]_+`
    - `softplus`: `tau log(1 + exp(d / tau))`, the hinge as tau -> 0
    - `sigmoid`: `1 / (1 + exp(-d / tau))`, whose mean estimates the discordant fraction
    - `tanh`: `1 + tanh(d / tau)`, whose mean tends to 1 - gamma (Goodman and Kruskal, over D) as tau -> 0

    Text-to-image reads the transposed labels; the two directions are averaged. Where no pair is ordered the loss is 0
    with zero gradient. Time O(B^3), memory O(B^2), forward and backward. Differentiable once.

    Source: the continuous part of Li et al. 2022 (arXiv 2210.11319); hinge, margin 0 and batch normalisation as in its
    released code, which omits to transpose the labels for text-to-image; the other choices are ours.

    Args:
        scores: (images, captions) similarities, higher is closer. Half precisions are computed in float32.
        labels: (images, captions) continuous relevance, 1 for a caption of the image; used as given, positives
            included. No gradient.
        gap: a number >= 0 in label units, or "p60" = the 60th percentile of `|R_ij - R_ik|` within the rows of
            `labels`, positives left out (`gap_percentile`); one gap for both directions. A percentile of the batch
            takes longer than the loss: prefer the label set's.
        surrogate: cost of a pair.
        margin: in units of `scores`.
        tau: in units of `scores`; unused by the hinge.
        sampling: `exact` = all pairs of D.
        normalise: `batch` = over all pairs of a direction; `query` = per query, then over the queries that have a pair.
        positives: (images, captions) bool, read for a percentile gap only; the diagonal if None.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`; then
            `t2i_labels` is needed too, and `t2i_positives` where `positives` is given.
        t2i_labels: (captions, images).
        t2i_positives: (captions, images) bool; checked, but a gap is estimated on the image rows alone.

    Returns:
        Scalar; float32 for half-precision scores.

    Raises:
        ShapeError: shapes disagree, something was left out, or (CPU only) a score or a label is not finite.
        ConfigError: an unknown choice, a negative gap, or a tau that is not above zero.
    """
    require_choice("surrogate", surrogate, get_args(Surrogate))
    require_choice("sampling", sampling, get_args(Sampling))
    require_choice("normalise", normalise, get_args(Normalise))
    require_positive("tau", tau)
    i2t, t2i = both_directions(
        scores,
        positives,
        labels,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        t2i_labels=t2i_labels,
        diagonal=isinstance(gap, str),
    )
    threshold = resolve_gap(gap, labels, positives)

    def direction_loss(direction: Direction) -> Tensor:
        sums, counts = row_discordance(
            direction.scores, direction.relevance, gap=threshold, surrogate=surrogate, margin=margin, tau=tau
        )
        if normalise == "batch":
            mean = sums.sum() / counts.sum().clamp(min=1)
        else:
            mean = (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
        return mean.to(direction.scores.dtype)

    return (direction_loss(i2t) + direction_loss(t2i)) / 2


class KendallLoss(nn.Module):
    """`kendall_loss` with its settings held; returns `{"kendall": scalar}`.

    Use it beside a triplet loss: alone it neither knows positives from the rest nor pushes anything apart that is
    ordered already.

    Example:
        >>> KendallLoss(gap=0.1)(scores, relevance)["kendall"].backward()
    """

    def __init__(
        self,
        *,
        gap: float | str = 0.0,
        surrogate: Surrogate = "hinge",
        margin: float = 0.0,
        tau: float = 0.05,
        sampling: Sampling = "exact",
        normalise: Normalise = "batch",
    ) -> None:
        super().__init__()
        self.gap = gap
        self.surrogate: Surrogate = surrogate
        self.margin = margin
        self.tau = tau
        self.sampling: Sampling = sampling
        self.normalise: Normalise = normalise

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        positives: Tensor | None = None,
        *,
        t2i_scores: Tensor | None = None,
        t2i_labels: Tensor | None = None,
        t2i_positives: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `kendall_loss`."""
        loss = kendall_loss(
            scores,
            labels,
            gap=self.gap,
            surrogate=self.surrogate,
            margin=self.margin,
            tau=self.tau,
            sampling=self.sampling,
            normalise=self.normalise,
            positives=positives,
            t2i_scores=t2i_scores,
            t2i_labels=t2i_labels,
            t2i_positives=t2i_positives,
        )
        return {"kendall": loss}

    def extra_repr(self) -> str:
        held = ("gap", "surrogate", "margin", "tau", "sampling", "normalise")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in held)
