"""The two retrieval directions of a batch, each with its queries as rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from bcls_core.errors import ShapeError
from bcls_core.losses.checks import require_mask, require_matrix, require_same_shape
from bcls_core.workers import Workers

ALONE = Workers()
"""One process holds the whole batch."""


class Transposed(TypedDict, total=False):
    """Optional arguments of a loss that reads scores only, where the transposed direction is not the transpose."""

    t2i_scores: Tensor | None
    t2i_positives: Tensor | None
    workers: Workers


class TransposedWithIgnored(Transposed, total=False):
    """The same of a loss that can leave pairs out."""

    ignored: Tensor | None
    t2i_ignored: Tensor | None


class TransposedWithLabels(Transposed, total=False):
    """The same of a loss that reads labels too."""

    t2i_labels: Tensor | None


@dataclass(frozen=True)
class Direction:
    """One direction: what a query (a row) is scored against (the columns).

    Attributes:
        scores: (queries, gallery), float32 or wider.
        positives: (queries, gallery) bool; None means the diagonal of a square matrix, and costs no search.
        labels: (queries, gallery) continuous relevance in the dtype it was given in, for losses that read it.
        ignored: (queries, gallery) bool, True where a column that is no positive is no negative either.
    """

    scores: Tensor
    positives: Tensor | None = None
    labels: Tensor | None = None
    ignored: Tensor | None = None

    @property
    def negatives(self) -> Tensor:
        """(queries, gallery) bool, True where the column is no positive of the row, and is not ignored."""
        others = ~self._matches
        return others if self.ignored is None else others & ~self.ignored

    @property
    def left_out(self) -> Tensor | None:
        """(queries, gallery) bool, True where the column is neither positive nor negative; None if there is none."""
        return None if self.ignored is None else self.ignored & ~self._matches

    @property
    def _matches(self) -> Tensor:
        if self.positives is not None:
            return self.positives
        return torch.eye(len(self.scores), dtype=torch.bool, device=self.scores.device)

    @property
    def relevance(self) -> Tensor:
        """The labels of a loss that cannot do without. Raises ShapeError where none were given."""
        if self.labels is None:
            raise ShapeError("labels: missing. Pass a (images, captions) matrix of relevance.")
        return self.labels


def both_directions(
    scores: Tensor,
    positives: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    t2i_scores: Tensor | None = None,
    t2i_positives: Tensor | None = None,
    t2i_labels: Tensor | None = None,
    ignored: Tensor | None = None,
    t2i_ignored: Tensor | None = None,
    diagonal: bool = True,
) -> tuple[Direction, Direction]:
    """Check a batch and return its image-to-text and its text-to-image direction.

    Args:
        scores: (images, captions) similarities. Half precisions are widened to float32.
        positives: (images, captions) bool, True where the caption was written for the image; the diagonal if None.
        labels: (images, captions) relevance.
        t2i_scores: (captions, images), where the transposed direction is not the transpose: a rank that scores its own
            rows against everybody's columns has two rectangles, not one matrix.
        t2i_positives, t2i_labels: (captions, images), the same for the other two; the transposes if None and
            `t2i_scores` is None.
        ignored: (images, captions) bool, True where a pair that is no positive is no negative either; `t2i_ignored` as
            the other two.
        diagonal: whether the loss needs to know the positives, so that the diagonal must exist where no mask is given.

    Raises:
        ShapeError: shapes disagree, a value is not finite, or something that cannot be inferred was left out.
    """
    require_matrix("scores", scores)
    if t2i_scores is None:
        flipped = scores.T
    else:
        require_matrix("t2i_scores", t2i_scores)
        flipped = t2i_scores
        apart = {
            "positives": (positives, t2i_positives),
            "labels": (labels, t2i_labels),
            "ignored": (ignored, t2i_ignored),
        }
        for name, (given, other) in apart.items():
            if given is not None and other is None:
                raise ShapeError(
                    f"t2i_{name}: missing, though {name} and t2i_scores are given. "
                    "Pass it as a (captions, images) matrix."
                )
    if t2i_ignored is not None and ignored is None:
        raise ShapeError("ignored: missing, though t2i_ignored is given. Pass both.")
    i2t = Direction(widened(scores), positives, labels, ignored)
    t2i = Direction(
        widened(flipped),
        t2i_positives if t2i_positives is not None or positives is None else positives.T,
        t2i_labels if t2i_labels is not None or labels is None else labels.T,
        t2i_ignored if t2i_ignored is not None or ignored is None else ignored.T,
    )
    for prefix, direction in (("", i2t), ("t2i_", t2i)):
        _check(prefix, direction, diagonal)
    return i2t, t2i


def _check(prefix: str, direction: Direction, diagonal: bool) -> None:
    if direction.labels is not None:
        require_matrix(f"{prefix}labels", direction.labels)
        require_same_shape(f"{prefix}labels", direction.labels, f"{prefix}scores", direction.scores)
    if direction.ignored is not None:
        require_mask(f"{prefix}ignored", direction.ignored, f"{prefix}scores", direction.scores)
    if direction.positives is not None:
        require_mask(f"{prefix}positives", direction.positives, f"{prefix}scores", direction.scores)
    elif diagonal and direction.scores.shape[0] != direction.scores.shape[1]:
        raise ShapeError(
            f"{prefix}scores: shape {tuple(direction.scores.shape)} has no diagonal of positives. "
            f"Pass {prefix}positives, a bool matrix of that shape."
        )


def widened(values: Tensor) -> Tensor:
    """Half precisions as float32, which holds them exactly; all else as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


@dataclass(frozen=True)
class Share:
    """What the rows of one worker add to a mean over everybody's rows.

    Attributes:
        total: scalar, the sum of this worker's terms.
        count: scalar, the number of these terms.
    """

    total: Tensor
    count: Tensor | int


def mean_of_directions(i2t: Direction, t2i: Direction, share: Callable[[Direction], Share], workers: Workers) -> Tensor:
    """This worker's share of the mean over all workers' terms, a mean per direction, the two averaged.

    Normalisers are summed over the workers in one exchange. A direction without terms adds 0.
    """
    shares = share(i2t), share(t2i)
    counts = torch.stack([torch.as_tensor(s.count, dtype=torch.float64, device=s.total.device) for s in shares])
    means = torch.stack([s.total for s in shares]) / workers.sum(counts).clamp(min=1)
    return (means.sum() / 2).to(i2t.scores.dtype)
