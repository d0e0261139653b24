"""Language-guided margin: the less relevant a candidate is, the further it is kept away from the match."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn, where

from bcls_core.errors import ConfigError
from bcls_core.losses.checks import require_number
from bcls_core.losses.directions import ALONE, Direction, TransposedWithLabels, both_directions
from bcls_core.losses.info_nce import info_nce_loss
from bcls_core.losses.percentile import Numbers, percent_of, percentile
from bcls_core.losses.temperature import require_temperature
from bcls_core.workers import Workers


def language_guided_margin_loss(
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    *,
    tau: float | Tensor = 0.02,
    margin: float = 0.2,
    threshold: float | str = "p70",
    t2i_scores: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """InfoNCE (`info_nce_loss`) of scores that are raised by a margin where the candidate is no positive.

    With threshold a, the cross-entropy is that of `softmax((s_ij + m_ij) / tau)`, where

    - `m_ij = 0` for a positive,
    - `m_ij = margin` for a candidate with `R_ij < a`,
    - `m_ij = margin (1 - R_ij) / (1 - a)` for one with `R_ij >= a`: continuous at a, and 0 from `R_ij = 1` on.

    Positives of a row share the target uniformly, rows without one cost nothing. Where a percentile is 1 or more, so
    that the last formula has no meaning, a candidate with `R_ij >= a` has no margin. Time and memory: a few
    (queries, gallery) matrices.

    Source: an additive margin inside a softmax, as in CosFace (Wang et al. 2018, arXiv 1801.09414), but one that
    follows continuous labels; formulation ours.

    Args:
        scores: (images, captions) similarities, higher is closer; usually cosines in [-1, 1]. Half precisions are
            computed in float32.
        labels: (images, captions) continuous relevance, 1 for what is as good as a match; compared with the threshold
            in their own dtype. Those of positives are not read. No gradient.
        positives: (images, captions) bool, True where the caption was written for the image; the diagonal if None.
        tau: in units of `scores`, a number or a scalar tensor above zero; a tensor gets a gradient.
        margin: in units of `scores`.
        threshold: a, a number below 1 in label units, or "p70" = the 70th percentile of the labels of all pairs of an
            image with a caption that is not its own, over the image rows of all workers; one for both directions.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`; then
            `t2i_labels` is needed too, and `t2i_positives` where `positives` is given.
        t2i_labels: (captions, images).
        t2i_positives: (captions, images) bool.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, something was left out, tau is a tensor but no scalar, or (CPU only) a score or a
            label is not finite.
        ConfigError: tau is a number not above zero, or the threshold neither a number below 1 nor a percentile.
    """
    require_temperature("tau", tau)
    require_number("margin", margin)
    percent = _percent_of(threshold)
    i2t, t2i = both_directions(
        scores,
        positives,
        labels,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        t2i_labels=t2i_labels,
    )
    if percent is None:
        at = float(threshold)
    else:
        at = percentile(Numbers.where(i2t.negatives, i2t.relevance), percent, workers)
    return info_nce_loss(
        i2t.scores + _margins(i2t, margin, at),
        i2t.positives,
        tau=tau,
        t2i_scores=t2i.scores + _margins(t2i, margin, at),
        t2i_positives=t2i.positives,
        workers=workers,
    )


class LanguageGuidedMarginLoss(nn.Module):
    """`language_guided_margin_loss` with its settings held; returns `{"language-guided-margin": scalar}`.

    Use it in place of InfoNCE where captions of other images often fit: they are still candidates to be told apart, but
    need not be as far away as what does not fit at all.

    Raises:
        ConfigError: as in `language_guided_margin_loss`.

    Example:
        >>> LanguageGuidedMarginLoss(threshold="p70")(scores, relevance)["language-guided-margin"].backward()
    """

    def __init__(self, *, tau: float = 0.02, margin: float = 0.2, threshold: float | str = "p70") -> None:
        super().__init__()
        self.tau = tau
        self.margin = margin
        self.threshold = threshold

    def forward(
        self,
        scores: Tensor,
        labels: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithLabels],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `language_guided_margin_loss`."""
        loss = language_guided_margin_loss(
            scores,
            labels,
            positives,
            tau=self.tau,
            margin=self.margin,
            threshold=self.threshold,
            **transposed,
        )
        return {"language-guided-margin": loss}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in ("tau", "margin", "threshold"))


def _percent_of(threshold: float | str) -> float | None:
    """The percentage of a threshold that is a percentile, None of one that is a number."""
    if isinstance(threshold, str):
        return percent_of("threshold", threshold)
    if not threshold < 1:
        raise ConfigError(f"threshold: {threshold}, expected a number below 1, the relevance of a match.")
    return None


def _margins(direction: Direction, margin: float, threshold: float) -> Tensor:
    labels = direction.relevance.detach()
    close = labels >= torch.full((), threshold, dtype=torch.float64, device=labels.device).to(labels.dtype)
    labels = labels.to(torch.promote_types(labels.dtype, direction.scores.dtype))
    slope = margin / (1 - threshold) if threshold < 1 else 0.0
    # Above, too: a label that is below the threshold, but not after rounding this to its dtype, has `margin`, not more.
    margins = where(close, slope * (1 - labels).clamp(0, max(1 - threshold, 0)), margin)
    return margins.to(direction.scores.dtype).masked_fill(~direction.negatives, 0.0)
