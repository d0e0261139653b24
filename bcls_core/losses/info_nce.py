"""InfoNCE: the matched caption is to be picked out of the batch.

Example:
    >>> scores = images @ captions.T                       # (images, captions) cosines, row i matches column i
    >>> info_nce_loss(scores, tau=0.05).backward()
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, finfo, logsumexp, nn

from bcls_core.losses.directions import (
    ALONE,
    Direction,
    Share,
    TransposedWithIgnored,
    both_directions,
    mean_of_directions,
)
from bcls_core.losses.temperature import Temperature, require_temperature, temperature_of, tempered
from bcls_core.workers import Workers


def info_nce_loss(
    scores: Tensor,
    positives: Tensor | None = None,
    *,
    tau: float | Tensor = 0.05,
    t2i_scores: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    ignored: Tensor | None = None,
    t2i_ignored: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """Cross-entropy of `softmax(s / tau)` with a target that the positives of a row share uniformly.

    A row i with positives P_i costs

        `log sum_j exp(s_ij / tau) - mean_{p in P_i} s_ip / tau`,

    the loss is the mean over the rows that have a positive, both directions halved (van den Oord et al. 2018,
    arXiv 1807.03748; both directions and a learned tau as in Radford et al. 2021, arXiv 2103.00020; a uniform target as
    in CUSA, Huang et al. 2024, arXiv 2403.05261). It is never below the entropy of the target, `log |P_i|`, which a row
    reaches when its positives tie far above the rest: so a row all of whose columns are positives is not free, it makes
    them equal. A row without positives costs 0 and has no gradient, and so has a batch of one. Time and memory: a few
    (queries, gallery) matrices.

    Args:
        scores: (images, captions) similarities, higher is closer. Half precisions are computed in float32.
        positives: (images, captions) bool, True where the caption was written for the image; the diagonal if None.
        tau: in units of `scores`, a number or a scalar tensor above zero; a tensor gets a gradient.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`.
        t2i_positives: (captions, images) bool, the positives of `t2i_scores`.
        ignored: (images, captions) bool, True where a pair that is no positive is no negative either, such as one whose
            label says that it might be a match.
        t2i_ignored: (captions, images) bool, likewise of `t2i_scores`.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, positives are missing for a matrix without a diagonal, tau is a tensor but no
            scalar, or (CPU only) a score is not finite.
        ConfigError: tau is a number not above zero.
    """
    require_temperature("tau", tau)

    def share(direction: Direction) -> Share:
        scores, left_out = direction.scores, direction.left_out
        logits = tempered(scores if left_out is None else scores.masked_fill(left_out, finfo(scores.dtype).min), tau)
        if direction.positives is None:
            return Share((logsumexp(logits, 1) - logits.diagonal()).sum(), len(logits))
        matches = direction.positives.sum(1)
        own = logits.masked_fill(~direction.positives, 0.0).sum(1) / matches.clamp(min=1)
        costs = (logsumexp(logits, 1) - own).masked_fill(matches == 0, 0.0)
        return Share(costs.sum(), (matches > 0).sum())

    i2t, t2i = both_directions(
        scores,
        positives,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        ignored=ignored,
        t2i_ignored=t2i_ignored,
    )
    return mean_of_directions(i2t, t2i, share, workers)


class InfoNCELoss(nn.Module):
    """`info_nce_loss` with its temperature held, learned by default; returns `{"info-nce": scalar}`.

    Use it as the binary part of an objective where batches are large: every negative counts, the closest most. A
    learned temperature is a parameter of the loss, so give the loss's parameters to the optimiser too.

    Args:
        tau: the temperature, or where it starts.
        learned: whether `tau` is a `Temperature` within [lowest, highest]; a fixed one has no bounds.

    Raises:
        ConfigError: a learned tau starts outside of its bounds.

    Example:
        >>> InfoNCELoss(tau=0.05)(scores)["info-nce"].backward()
    """

    def __init__(self, tau: float = 0.05, *, learned: bool = True, lowest: float = 0.01, highest: float = 0.10) -> None:
        super().__init__()
        self.tau: float | Temperature = Temperature(tau, lowest=lowest, highest=highest) if learned else tau

    def forward(
        self,
        scores: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithIgnored],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `info_nce_loss`."""
        tau = temperature_of(self.tau, transposed.get("workers", ALONE))
        return {"info-nce": info_nce_loss(scores, positives, tau=tau, **transposed)}

    def extra_repr(self) -> str:
        return "" if isinstance(self.tau, Temperature) else f"tau={self.tau!r}"
