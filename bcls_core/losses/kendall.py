"""Kendall ranking loss: scores must order a gallery as continuous labels do."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

from torch import Tensor, nn

from bcls_core.errors import ConfigError
from bcls_core.losses.checks import require_choice, require_number, require_positive
from bcls_core.losses.directions import (
    ALONE,
    Direction,
    Share,
    TransposedWithLabels,
    both_directions,
    mean_of_directions,
)
from bcls_core.losses.discordance import Sampling, Surrogate, row_discordance
from bcls_core.losses.gap import resolve_gap
from bcls_core.workers import Workers

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
    window: int = 1,
    stride: int | None = None,
    hard: bool = False,
    normalise: Normalise = "batch",
    positives: Tensor | None = None,
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """Mean discordance between scores and labels over the pairs of candidates that the labels order clearly.

    For query i, `D_i = {(j, k): R_ij - R_ik > gap}`, where the difference is the one rounded in the labels' own dtype
    and `gap` is taken in that dtype too. A pair costs, with `d = s_ik - s_ij + margin`,

    - `hinge`: `[d]_+`
    - `softplus`: `tau log(1 + exp(d / tau))`, the hinge as tau -> 0
    - `sigmoid`: `1 / (1 + exp(-d / tau))`, whose mean estimates the discordant fraction
    - `tanh`: `1 + tanh(d / tau)`, whose mean tends to 1 - gamma (Goodman and Kruskal, over D) as tau -> 0

    Sliding windows and hard mining (SW-HS) leave out pairs whose labels are too noisy to tell apart, and make the loss
    cheap. They go by p, the position among the query's distinct labels from the highest down, so that candidates with
    equal labels share one. Of the pairs in D,

    - `exact` takes all
    - `dead-zone` takes those with `p_k >= p_j + window`: what is within the window of j is too close to trust;
      `window=1` is `exact`
    - `local` moves windows of `window` positions by `stride` and pairs the upper half of each with its lower half:
      `a <= p_j < a + window // 2 <= p_k < a + window` for a = 0, stride, 2 stride, ...; a pair in several windows
      counts in each

    `hard` keeps for each j the best-scored of these k, or in each local window the pair with the largest `s_k - s_j`.

    Text-to-image reads the transposed labels; the two directions are averaged. Where no pair is ordered the loss is 0
    with zero gradient. Differentiable once. Memory O(B^2). Time, forward and backward: with `hard` O(B^2) after sorting
    the labels; the exact or dead-zone hinge on a CPU little more than that (`hinge_discordance`); else O(B^3).

    Source: after the abstract of Li et al. 2022 (arXiv 2210.11319); hinge, margin 0 and batch normalisation as in its
    released code, which omits to transpose the labels for text-to-image; windows, mining and the other choices are
    ours.

    Args:
        scores: (images, captions) similarities, higher is closer. Half precisions are computed in float32.
        labels: (images, captions) continuous relevance, 1 for a caption of the image; used as given, positives
            included. No gradient.
        gap: a number >= 0 in label units, or "p60" = the 60th percentile of `|R_ij - R_ik|` within the rows of
            `labels`, positives left out (`gap_percentile`), over all workers; one gap for both directions. A
            percentile of the batch takes longer than the loss: prefer the label set's.
        surrogate: cost of a pair.
        margin: in units of `scores`.
        tau: in units of `scores`; unused by the hinge.
        sampling: which pairs of D are taken.
        window: positions, >= 1; for `local` >= 2. A good start is an eighth of the batch.
        stride: positions between `local` windows; half a window if None.
        hard: keep the hardest pairs only.
        normalise: `batch` = over all pairs taken in a direction; `query` = per query, then over the queries that have
            a pair. With `hard` that is one for each candidate, or local window, that has any.
        positives: (images, captions) bool, read for a percentile gap only; the diagonal if None.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`; then
            `t2i_labels` is needed too, and `t2i_positives` where `positives` is given.
        t2i_labels: (captions, images).
        t2i_positives: (captions, images) bool; checked, but a gap is estimated on the image rows alone.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, something was left out, or (CPU only) a score or a label is not finite.
        ConfigError: an unknown choice, a negative gap, a tau that is not above zero, or a window or stride too small.
    """
    require_choice("surrogate", surrogate, get_args(Surrogate))
    require_choice("sampling", sampling, get_args(Sampling))
    require_choice("normalise", normalise, get_args(Normalise))
    require_positive("tau", tau)
    require_number("margin", margin)
    step = _require_window(sampling, window, stride)
    i2t, t2i = both_directions(
        scores,
        positives,
        labels,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        t2i_labels=t2i_labels,
        diagonal=isinstance(gap, str),
    )
    threshold = resolve_gap(gap, labels, positives, workers)

    def share(direction: Direction) -> Share:
        sums, counts = row_discordance(
            direction.scores,
            direction.relevance,
            gap=threshold,
            surrogate=surrogate,
            margin=margin,
            tau=tau,
            sampling=sampling,
            window=window,
            stride=step,
            hard=hard,
        )
        if normalise == "batch":
            return Share(sums.sum(), counts.sum())
        return Share((sums / counts.clamp(min=1)).sum(), (counts > 0).sum())

    return mean_of_directions(i2t, t2i, share, workers)


def _require_window(sampling: Sampling, window: int, stride: int | None) -> int:
    """The stride, or an error where these do not describe windows."""
    smallest = 2 if sampling == "local" else 1
    if window < smallest:
        raise ConfigError(f"window: {window}, expected at least {smallest} for sampling={sampling!r}.")
    if sampling == "exact" and window > 1:
        raise ConfigError(f"window={window} with sampling='exact', which has none; choose 'dead-zone' or 'local'.")
    if stride is not None and stride < 1:
        raise ConfigError(f"stride: {stride}, expected at least 1.")
    return max(window // 2, 1) if stride is None else stride


class KendallLoss(nn.Module):
    """`kendall_loss` with its settings held; returns `{"kendall": scalar}`.

    Use it beside a triplet loss: alone it neither knows positives from the rest nor pushes anything apart that is
    ordered already. Take `exact` where labels are trusted, `dead-zone` with `hard=True` where they are noisy.

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
        window: int = 1,
        stride: int | None = None,
        hard: bool = False,
        normalise: Normalise = "batch",
    ) -> None:
        super().__init__()
        self.gap = gap
        self.surrogate: Surrogate = surrogate
        self.margin = margin
        self.tau = tau
        self.sampling: Sampling = sampling
        self.window = window
        self.stride = stride
        self.hard = hard
        self.normalise: Normalise = normalise

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithLabels],
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
            window=self.window,
            stride=self.stride,
            hard=self.hard,
            normalise=self.normalise,
            positives=positives,
            **transposed,
        )
        return {"kendall": loss}

    def extra_repr(self) -> str:
        held = ("gap", "surrogate", "margin", "tau", "sampling", "window", "stride", "hard", "normalise")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in held)
