"""Soft-label alignment: scores of pairs are to be distributed as two uni-modal teachers say.

A teacher of images knows how alike two images of a batch are, a teacher of captions how alike two captions are. Pair j
of a batch is an image and its caption, so both speak of the same pairs: what image i should score with caption j is
read off image i and image j, or off caption i and caption j.

Example:
    >>> like_images = image_features @ image_features.T        # (pairs, pairs), of frozen teachers
    >>> like_captions = caption_features @ caption_features.T
    >>> cross_modal_alignment_loss(scores, like_images, like_captions, student_tau=0.45).backward()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.checks import require_choice, require_matrix, require_same_shape
from bcls_core.losses.directions import ALONE
from bcls_core.losses.soft_label import SoftLabelLoss, soft_label_loss
from bcls_core.losses.temperature import Temperature, temperature_of
from bcls_core.workers import Workers

Mode = Literal["each", "add", "dot"]
Side = Literal["image-image", "caption-caption"]
_SIDES: tuple[Side, ...] = get_args(Side)


def cross_modal_alignment_loss(
    scores: Tensor,
    image_teacher: Tensor,
    caption_teacher: Tensor,
    *,
    student_tau: float | Tensor,
    mode: Mode = "each",
    teacher_tau: float = 1.0,
    t2i_scores: Tensor | None = None,
    workers: Workers = ALONE,
) -> Tensor:
    """`soft_label_loss` in both directions, halved: CSA of CUSA (Huang et al. 2024, arXiv 2403.05261; released code).

    By `mode` the directions have these teachers:

    - `each`: image to text the teacher of images, text to image the teacher of captions
    - `add`: both the mean of the two
    - `dot`: both `sqrt([image_teacher]_+ [caption_teacher]_+)`

    A batch of one costs 0. Time and memory: a few (pairs, pairs) matrices.

    Args:
        scores: (images, captions) similarities, higher is closer; image i and caption i are pair i. Half precisions
            are computed in float32.
        image_teacher: (images, images) similarities, any floating dtype; no gradient.
        caption_teacher: (captions, captions) likewise.
        student_tau: in units of `scores`, a number or a scalar tensor above zero; a tensor gets a gradient.
        mode: how the teachers' words are put together.
        teacher_tau: in units of the teachers' similarities.
        t2i_scores: (captions, images), where the transposed direction is not the transpose of `scores`.
        workers: who holds the other rows of the batch, where these are one worker's rows against everybody's columns;
            of the teachers they are the rows of its pairs, too.

    Returns:
        Scalar; float32 for half-precision scores. With several workers this one's share: the shares add up to the loss.

    Raises:
        ShapeError: shapes disagree, student_tau is a tensor but no scalar, or (CPU only) a value is not finite.
        ConfigError: an unknown mode, or a temperature is a number not above zero.
    """
    require_choice("mode", mode, get_args(Mode))
    for name, teacher in (("image_teacher", image_teacher), ("caption_teacher", caption_teacher)):
        require_matrix(name, teacher)
        require_same_shape(name, teacher, "scores", scores)
    if t2i_scores is not None:
        require_same_shape("t2i_scores", t2i_scores, "scores", scores)
    elif scores.shape[0] != scores.shape[1]:
        raise ShapeError(
            f"scores: shape {tuple(scores.shape)}, one worker's rows: pass t2i_scores, its captions against all images."
        )
    i2t, t2i = _targets(image_teacher.detach(), caption_teacher.detach(), mode)
    flipped = scores.T if t2i_scores is None else t2i_scores
    losses = [
        soft_label_loss(rows, target, student_tau=student_tau, teacher_tau=teacher_tau, workers=workers)
        for rows, target in ((scores, i2t), (flipped, t2i))
    ]
    return (losses[0] + losses[1]) / 2


class CrossModalAlignmentLoss(nn.Module):
    """`cross_modal_alignment_loss` with its temperatures held, the student's learned by default.

    Returns `{"image-caption": scalar}`. Use it beside a loss that knows the positives; defaults are those of CUSA's
    released code. A learned temperature is a parameter of the loss, so give the loss's parameters to the optimiser too.

    Args:
        mode: how the teachers' words are put together.
        student_tau: the student's temperature in both directions, or where it starts.
        learned: whether `student_tau` is a `Temperature` within [lowest, highest]; a fixed one has no bounds.
        teacher_tau: the teachers', fixed.

    Raises:
        ConfigError: a learned temperature starts outside of its bounds.

    Example:
        >>> CrossModalAlignmentLoss()(scores, like_images, like_captions)["image-caption"].backward()
    """

    def __init__(
        self,
        mode: Mode = "each",
        *,
        student_tau: float = 0.45,
        learned: bool = True,
        lowest: float = 0.10,
        highest: float = 0.99,
        teacher_tau: float = 1.0,
    ) -> None:
        super().__init__()
        self.mode: Mode = mode
        self.student_tau: float | Temperature = (
            Temperature(student_tau, lowest=lowest, highest=highest) if learned else student_tau
        )
        self.teacher_tau = teacher_tau

    def forward(
        self,
        scores: Tensor,
        image_teacher: Tensor,
        caption_teacher: Tensor,
        *,
        t2i_scores: Tensor | None = None,
        workers: Workers = ALONE,
    ) -> dict[str, Tensor]:
        """Arguments, shapes and errors as in `cross_modal_alignment_loss`."""
        loss = cross_modal_alignment_loss(
            scores,
            image_teacher,
            caption_teacher,
            student_tau=temperature_of(self.student_tau, workers),
            mode=self.mode,
            teacher_tau=self.teacher_tau,
            t2i_scores=t2i_scores,
            workers=workers,
        )
        return {"image-caption": loss}

    def extra_repr(self) -> str:
        fixed = "" if isinstance(self.student_tau, Temperature) else f"student_tau={self.student_tau!r}, "
        return f"mode={self.mode!r}, {fixed}teacher_tau={self.teacher_tau!r}"


class UniModalAlignmentLoss(nn.Module):
    """Scores of images with images, and of captions with captions, are distributed as their teachers say.

    USA of CUSA (Huang et al. 2024, arXiv 2403.05261; released code): the mean of one `soft_label_loss` a side, each
    side with a temperature of its own; returns `{"image-image": scalar, "caption-caption": scalar}`, which are its
    parts. The scores are to come from heads of their own, for what serves retrieval across modalities need not be alike
    within one.

    Args:
        between: the sides; of one alone nothing is halved.
        student_tau: the student's temperatures, or where they start.
        learned: whether they are `Temperature`s within [lowest, highest]; fixed ones have no bounds.
        teacher_tau: the teachers', fixed.

    Raises:
        ConfigError: no sides or unknown ones, or a learned temperature starts outside of its bounds.

    Example:
        >>> terms = UniModalAlignmentLoss()({"image-image": (u, like_images), "caption-caption": (v, like_captions)})
    """

    def __init__(
        self,
        between: Side | Sequence[Side] = _SIDES,
        *,
        student_tau: float = 0.45,
        learned: bool = True,
        lowest: float = 0.10,
        highest: float = 1.00,
        teacher_tau: float = 1.0,
    ) -> None:
        super().__init__()
        between = (between,) if isinstance(between, str) else tuple(between)
        for side in between:
            require_choice("between", side, _SIDES)
        if not between or len(set(between)) < len(between):
            raise ConfigError(f"between: {list(between)}, expected image-image, caption-caption, or each of them once.")
        self.between = between
        for side in between:
            loss = SoftLabelLoss(student_tau, learned=learned, lowest=lowest, highest=highest, teacher_tau=teacher_tau)
            self.add_module(side, loss)

    def forward(
        self, scores_and_teachers: Mapping[Side, tuple[Tensor, Tensor]], *, workers: Workers = ALONE
    ) -> dict[str, Tensor]:
        """
        Args:
            scores_and_teachers: of each side (rows, columns) scores, and the teacher's similarities of the same; as
                `soft_label_loss` takes them.
            workers: who holds the other rows of the batch, where these are one worker's rows against all columns.
        Raises:
            ShapeError: shapes disagree, or (CPU only) a value is not finite.
        """
        found = {}
        for side in self.between:
            if side not in scores_and_teachers:
                raise ShapeError(f"{side}: missing, only {', '.join(scores_and_teachers) or 'nothing'} was given.")
            (loss,) = self.get_submodule(side)(*scores_and_teachers[side], workers=workers).values()
            found[str(side)] = loss / len(self.between)
        return found

    def extra_repr(self) -> str:
        return f"between={self.between!r}"


def _targets(image_teacher: Tensor, caption_teacher: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
    """Similarities that rows of images, and rows of captions, are compared with."""
    if mode == "each":
        return image_teacher, caption_teacher
    wide = torch.promote_types(torch.promote_types(image_teacher.dtype, caption_teacher.dtype), torch.float32)
    images, captions = image_teacher.to(wide), caption_teacher.to(wide)
    # Roots first: their product neither overflows nor vanishes where that of the similarities does.
    joint = (images + captions) / 2 if mode == "add" else images.clamp(min=0).sqrt() * captions.clamp(min=0).sqrt()
    return joint, joint
