"""SigLIP: each pair of the batch is a yes-or-no question of its own.

Example:
    >>> scores = images @ captions.T                       # (images, captions) cosines, row i matches column i
    >>> siglip_loss(scores, scale=10.0, bias=-10.0).backward()
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcls_core.losses.checks import require_number, require_positive
from bcls_core.losses.directions import (
    ALONE,
    Direction,
    Share,
    TransposedWithIgnored,
    both_directions,
    mean_of_directions,
)
from bcls_core.losses.temperature import require_scalar, require_temperature
from bcls_core.workers import Workers


def siglip_loss(
    scores: Tensor,
    positives: Tensor | None = None,
    *,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
    t2i_scores: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    ignored: Tensor | None = None,
    t2i_ignored: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """Logistic loss of every pair: is this caption one of the image's, or not?

    With `z_ij` = +1 on positives and -1 elsewhere, a direction costs

        `-(1 / queries) sum_ij log sigmoid(z_ij (scale s_ij + bias))`,

    and both are halved (Zhai et al. 2023, arXiv 2303.15343). The two differ only in their number of queries, so for as
    many images as captions this is the textbook form. No row is without cost: one without positives is told that
    nothing matches, a batch of one that its pair does. Time and memory: a few (queries, gallery) matrices.

    Args:
        scores: (images, captions) similarities, higher is closer. Half precisions are computed in float32.
        positives: (images, captions) bool, True where the caption was written for the image; the diagonal if None.
        scale: one over a temperature in units of `scores`, a number or a scalar tensor above zero; a tensor gets a
            gradient.
        bias: the log-odds of a match at score 0, a number or a scalar tensor; a tensor gets a gradient. Far below zero
            at the start, as nearly all pairs of a batch are negatives.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`.
        t2i_positives: (captions, images) bool, the positives of `t2i_scores`.
        ignored: (images, captions) bool, True where a pair that is no positive is no negative either, such as one whose
            label says that it might be a match.
        t2i_ignored: (captions, images) bool, likewise of `t2i_scores`.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, positives are missing for a matrix without a diagonal, scale or bias is a tensor
            but no scalar, or (CPU only) a score is not finite.
        ConfigError: scale is a number not above zero.
    """
    require_temperature("scale", scale)
    require_scalar("bias", bias)
    if not isinstance(bias, Tensor):
        require_number("bias", bias)

    def share(direction: Direction) -> Share:
        logits = direction.scores * scale + bias
        correct = torch.where(direction.negatives, -logits, logits)
        costs = -F.logsigmoid(correct)
        left_out = direction.left_out
        return Share((costs if left_out is None else costs.masked_fill(left_out, 0.0)).sum(), len(logits))

    i2t, t2i = both_directions(
        scores,
        positives,
        t2i_scores=t2i_scores,
        t2i_positives=t2i_positives,
        ignored=ignored,
        t2i_ignored=t2i_ignored,
    )
    return mean_of_directions(i2t, t2i, share, workers)


class SigLIPLoss(nn.Module):
    """`siglip_loss` with its scale and bias held, learned by default; returns `{"siglip": scalar}`.

    Use it instead of InfoNCE where batches are small, or where a row has many positives or none: no pair competes with
    another. What is learned is the logarithm of the scale, so that it stays positive and a step multiplies it, and the
    bias; both are parameters of the loss, so give those to the optimiser too, without weight decay.

    Args:
        scale, bias: the values, or where they start.
        learned: whether they are parameters.

    Attributes:
        log_scale: scalar parameter, float32; None if not learned.
        bias: scalar parameter, float32; the number if not learned.

    Raises:
        ConfigError: scale is not above zero.

    Example:
        >>> SigLIPLoss()(scores)["siglip"].backward()
    """

    def __init__(self, scale: float = 10.0, bias: float = -10.0, *, learned: bool = True) -> None:
        super().__init__()
        require_positive("scale", scale)
        self.start = {"scale": scale, "bias": bias}
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float32)) if learned else None
        self.bias: float | nn.Parameter = nn.Parameter(torch.tensor(bias, dtype=torch.float32)) if learned else bias

    def forward(
        self,
        scores: Tensor,
        positives: Tensor | None = None,
        **transposed: Unpack[TransposedWithIgnored],
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `siglip_loss`."""
        scale = self.start["scale"] if self.log_scale is None else self.log_scale.exp()
        return {"siglip": siglip_loss(scores, positives, scale=scale, bias=self.bias, **transposed)}

    def extra_repr(self) -> str:
        held = {**self.start, "learned": self.log_scale is not None}
        return ", ".join(f"{name}={value!r}" for name, value in held.items())
