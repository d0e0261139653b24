"""Soft labels: a row of scores is to be distributed as a teacher's row is.

Example:
    >>> teacher = image_features @ image_features.T        # (images, captions): column j by the image it belongs to
    >>> soft_label_loss(scores, teacher, student_tau=0.45).backward()
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bcls_core.losses.checks import require_matrix, require_positive, require_same_shape
from bcls_core.losses.directions import ALONE
from bcls_core.losses.temperature import Temperature, require_temperature, temperature_of, tempered
from bcls_core.workers import Workers


def soft_label_loss(
    scores: Tensor,
    teacher: Tensor,
    *,
    student_tau: float | Tensor,
    teacher_tau: float = 1.0,
    workers: Workers = ALONE,
) -> Tensor:
    """Kullback-Leibler divergence of the student's rows from the teacher's, one direction: rows only.

        `mean_i sum_j p_ij log(p_ij / q_ij)`, `p = softmax(teacher / teacher_tau)`, `q = softmax(scores / student_tau)`

    (CUSA, Huang et al. 2024, arXiv 2403.05261, which adds one such term per direction, each with its own teacher: pass
    the transposed scores with the other teacher for the second). 0 where the distributions are equal, as with a single
    column; what the teacher finds impossible (p = 0 after rounding) costs nothing. Positives are what the teacher says
    they are. Time and memory: a few (rows, columns) matrices.

    Args:
        scores: (rows, columns) similarities, higher is closer. Half precisions are computed in float32.
        teacher: (rows, columns) similarities in any floating dtype, computed in float32 at least; no gradient.
        student_tau: in units of `scores`, a number or a scalar tensor above zero; a tensor gets a gradient.
        teacher_tau: in units of `teacher`.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, student_tau is a tensor but no scalar, or (CPU only) a score is not finite.
        ConfigError: a temperature is a number not above zero.
    """
    require_temperature("student_tau", student_tau)
    require_positive("teacher_tau", teacher_tau)
    require_matrix("scores", scores)
    require_matrix("teacher", teacher)
    require_same_shape("teacher", teacher, "scores", scores)
    student = scores.to(torch.promote_types(scores.dtype, torch.float32))
    wide_teacher = teacher.detach().to(torch.promote_types(teacher.dtype, student.dtype))
    log_p = tempered(wide_teacher, teacher_tau).log_softmax(1).to(student.dtype)
    log_q = tempered(student, student_tau).log_softmax(1)
    p = log_p.exp()
    total = (p * (log_p - log_q)).masked_fill(p == 0, 0.0).sum()  # log 0 times 0 is no number
    rows = total.new_full((), len(student), dtype=torch.float64)
    return (total / workers.sum(rows)).to(student.dtype)


class SoftLabelLoss(nn.Module):
    """`soft_label_loss` with its temperatures held, the student's learned by default; returns `{"soft-label": scalar}`.

    Use it beside a loss that knows the positives, where a teacher grades the rest of the batch: it moves probability to
    what the teacher finds similar. A learned temperature is a parameter of the loss, so give the loss's parameters to
    the optimiser too.

    Args:
        student_tau: the student's temperature, or where it starts.
        learned: whether `student_tau` is a `Temperature` within [lowest, highest]; a fixed one has no bounds.
        teacher_tau: the teacher's, fixed.

    Raises:
        ConfigError: a learned temperature starts outside of its bounds.

    Example:
        >>> SoftLabelLoss()(scores, teacher)["soft-label"].backward()
    """

    def __init__(
        self,
        student_tau: float = 0.45,
        *,
        learned: bool = True,
        lowest: float = 0.10,
        highest: float = 0.99,
        teacher_tau: float = 1.0,
    ) -> None:
        super().__init__()
        self.student_tau: float | Temperature = (
            Temperature(student_tau, lowest=lowest, highest=highest) if learned else student_tau
        )
        self.teacher_tau = teacher_tau

    def forward(self, scores: Tensor, teacher: Tensor, *, workers: Workers = ALONE) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `soft_label_loss`."""
        student_tau = temperature_of(self.student_tau, workers)
        loss = soft_label_loss(scores, teacher, student_tau=student_tau, teacher_tau=self.teacher_tau, workers=workers)
        return {"soft-label": loss}

    def extra_repr(self) -> str:
        fixed = "" if isinstance(self.student_tau, Temperature) else f"student_tau={self.student_tau!r}, "
        return f"{fixed}teacher_tau={self.teacher_tau!r}"
