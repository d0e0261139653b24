"""What is optimised: the terms of an objective, one per loss of `bcls_core.losses`, with the settings of its class."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from bcls_core.config.base import Section
from bcls_core.config.label import MeasureName


def _number_or_percentile(value: float | str) -> float | str:
    if isinstance(value, str) and not re.fullmatch(r"p\d{1,2}", value):
        raise ValueError("expected a number in label units or a percentile from p0 to p99")
    return value


class Term(Section):
    """One weighted loss."""

    weight: PositiveFloat = 1.0

    def settings(self) -> dict[str, Any]:
        """Arguments of the loss's class."""
        return self.model_dump(exclude={"loss", "weight", "relevance", "related"})

    def measures(self) -> dict[str, str]:
        """The relevance measures whose labels the term reads, by the setting that names them."""
        return {}


class GradedTerm(Term):
    """A loss that reads continuous labels, those of one relevance measure."""

    relevance: MeasureName

    def measures(self) -> dict[str, str]:
        return {"relevance": self.relevance}


class Related(Section):
    """Captions of other images that labels call relevant: not to be pushed away like the rest."""

    relevance: MeasureName
    above: float = Field(gt=-1, lt=1, description="in label units; of an own caption the label is 1")
    treat: Literal["positive", "ignore"] = Field(
        default="ignore", description="positive: as if it were the image's own; ignore: neither positive nor negative"
    )


class BinaryTerm(Term):
    """A loss that knows positives and negatives."""

    related: Related | None = Field(default=None, description="what is no negative though it is no match")

    def measures(self) -> dict[str, str]:
        return {} if self.related is None else {"related.relevance": self.related.relevance}


class TripletTerm(BinaryTerm):
    """`triplet_loss`: the matched caption must win by a margin."""

    loss: Literal["triplet"]
    mining: Literal["sum", "hardest", "soft", "selective"] = "soft"
    variant: Literal["smooth", "logsumexp", "softmax"] = "smooth"
    margin: NonNegativeFloat = 0.2
    tau: PositiveFloat = 0.02
    eps: NonNegativeFloat = 0.01


class InfoNCETerm(BinaryTerm):
    """`info_nce_loss`: the matched caption is to be picked out of the batch."""

    loss: Literal["info-nce"]
    tau: PositiveFloat = 0.05
    learned: bool = True
    lowest: PositiveFloat = 0.01
    highest: PositiveFloat = 0.10

    @model_validator(mode="after")
    def _starts_inside(self) -> InfoNCETerm:
        if self.learned and not self.lowest <= self.tau <= self.highest:
            raise ValueError(f"a learned tau starts between lowest={self.lowest} and highest={self.highest}")
        return self


class SigLIPTerm(BinaryTerm):
    """`siglip_loss`: every pair is judged by itself, matched or not."""

    loss: Literal["siglip"]
    scale: PositiveFloat = 10.0
    bias: float = -10.0
    learned: bool = True


class KendallTerm(GradedTerm):
    """`kendall_loss`: scores must order captions as the labels do."""

    loss: Literal["kendall"]
    gap: Annotated[NonNegativeFloat | str, AfterValidator(_number_or_percentile)] = "p60"
    surrogate: Literal["hinge", "softplus", "sigmoid", "tanh"] = "hinge"
    margin: NonNegativeFloat = 0.0
    tau: PositiveFloat = 0.05
    sampling: Literal["exact", "dead-zone", "local"] = "exact"
    window: PositiveInt = 1
    stride: PositiveInt | None = None
    hard: bool = False
    normalise: Literal["batch", "query"] = "batch"

    @model_validator(mode="after")
    def _has_windows_where_they_mean_something(self) -> KendallTerm:
        if self.sampling == "local" and self.window < 2:
            raise ValueError("sampling: local needs a window of at least 2")
        if self.sampling == "exact" and self.window > 1:
            raise ValueError("sampling: exact has no window; choose dead-zone or local")
        return self


class LanguageGuidedMarginTerm(GradedTerm):
    """`language_guided_margin_loss`: what is less relevant is kept further away."""

    loss: Literal["language-guided-margin"]
    tau: PositiveFloat = 0.02
    margin: NonNegativeFloat = 0.2
    threshold: Annotated[Annotated[float, Field(lt=1)] | str, AfterValidator(_number_or_percentile)] = "p70"


class LadderTerm(GradedTerm):
    """`ladder_loss`: a triplet loss, and one such step at each relevance threshold."""

    loss: Literal["ladder"]
    margins: tuple[NonNegativeFloat, ...] = (0.2, 0.01)
    thresholds: tuple[float, ...] = (0.63,)
    weights: tuple[NonNegativeFloat, ...] = (0.25,)

    @model_validator(mode="after")
    def _levels_agree(self) -> LadderTerm:
        if not len(self.margins) - 1 == len(self.thresholds) == len(self.weights) > 0:
            raise ValueError("expected one weight per threshold, and one margin more than thresholds")
        if any(lower >= upper for upper, lower in pairwise(self.thresholds)):
            raise ValueError("expected thresholds that descend")
        return self


class SmoothNDCGTerm(GradedTerm):
    """`s_ndcg_loss`: smooth normalised discounted cumulative gain."""

    loss: Literal["s-ndcg"]
    tau: PositiveFloat = 0.01


class SoftSpearmanTerm(GradedTerm):
    """`soft_spearman_loss`: correlation of soft ranks with the ranks of the labels."""

    loss: Literal["soft-spearman"]
    tau: PositiveFloat = 0.05


class CoSENTTerm(GradedTerm):
    """`cosent_loss`: a logistic loss over pairs that the labels order."""

    loss: Literal["cosent"]
    scale: PositiveFloat = 20.0


WithinSide = Literal["image-image", "caption-caption"]


class SoftLabelTerm(Term):
    """Scores are to be distributed as teachers say: between images and captions (`cross_modal_alignment_loss`, CSA of
    CUSA), or within each side, of scores that heads of their own make of the encodings (`UniModalAlignmentLoss`, USA).
    """

    loss: Literal["soft-label"]
    between: Literal["image-caption"] | WithinSide | tuple[WithinSide, ...] = "image-caption"
    mode: Literal["each", "add", "dot"] = Field(default="each", description="how teachers are joined, image-caption")
    labels: Literal["batch", "corpus"] = Field(
        default="batch",
        description="batch: softmax of the teacher's similarities over the batch; corpus: its soft labels of the whole "
        "split, at label.soft_labels.temperature, as they fall upon the batch",
    )
    image_teacher: MeasureName | None = Field(
        default=None, description="of label.image_teachers; its only one if unset"
    )
    caption_teacher: MeasureName | None = Field(default=None, description="of label.measures; the only one if unset")
    student_tau: PositiveFloat = 0.45
    learned: bool = True
    lowest: PositiveFloat = 0.10
    highest: PositiveFloat | None = Field(default=None, description="0.99 for image-caption, else 1")
    teacher_tau: PositiveFloat = 1.0

    @field_validator("between", mode="after")
    @classmethod
    def _in_one_order(cls, between: Any) -> Any:
        sides = (between,) if isinstance(between, str) else between
        return between if between == "image-caption" else tuple(sorted(sides, reverse=True))

    @model_validator(mode="after")
    def _names_what_it_reads(self) -> SoftLabelTerm:
        for side, setting in (("image-image", "image_teacher"), ("caption-caption", "caption_teacher")):
            if not self.is_cross_modal and side not in self.sides and getattr(self, setting) is not None:
                raise ValueError(f"{setting} is not read between {', '.join(self.sides)}: leave it out")
        return self

    @model_validator(mode="after")
    def _says_one_thing(self) -> SoftLabelTerm:
        if not self.sides or len(set(self.sides)) < len(self.sides):
            raise ValueError("between: expected image-caption, or image-image and caption-caption, each at most once")
        if self.mode != "each" and not self.is_cross_modal:
            raise ValueError(f"mode: {self.mode} joins teachers across image-caption; within a side there is one")
        if self.labels == "corpus" and (self.mode != "each" or self.teacher_tau != 1):
            raise ValueError(
                "labels: corpus are probabilities already: leave mode and teacher_tau out, and set the temperature in "
                "label.soft_labels"
            )
        if self.learned and not self.lowest <= self.student_tau <= self.most:
            raise ValueError(f"a learned student_tau starts between lowest={self.lowest} and highest={self.most}")
        return self

    @property
    def sides(self) -> tuple[str, ...]:
        """What the term is between, always as several."""
        return (self.between,) if isinstance(self.between, str) else self.between

    @property
    def is_cross_modal(self) -> bool:
        return self.sides == ("image-caption",)

    @property
    def most(self) -> float:
        """`highest`, or its default."""
        return self.highest if self.highest is not None else 0.99 if self.is_cross_modal else 1.0

    def settings(self) -> dict[str, Any]:
        shared = {name: getattr(self, name) for name in ("student_tau", "learned", "lowest", "teacher_tau")}
        own = {"mode": self.mode} if self.is_cross_modal else {"between": self.sides}
        return {**own, **shared, "highest": self.most}

    def teachers(self, image_teachers: Iterable[str], measures: Iterable[str]) -> tuple[str | None, str | None]:
        """Names of the image teacher and of the caption measure that the term reads; None of one that it does not.

        Args:
            image_teachers, measures: which there are.
        Raises:
            ValueError: one is not there, or none is named and there is not exactly one.
        """
        reads_images, reads_captions = (
            self.is_cross_modal or side in self.sides for side in ("image-image", "caption-caption")
        )
        return (
            _named_or_only("image_teacher", self.image_teacher, sorted(image_teachers)) if reads_images else None,
            _named_or_only("caption_teacher", self.caption_teacher, sorted(measures)) if reads_captions else None,
        )


_WHERE = {"image_teacher": "image_teachers", "caption_teacher": "measures"}


def _named_or_only(setting: str, named: str | None, there: list[str]) -> str:
    shown = f"there {'is' if len(there) <= 1 else 'are'} {', '.join(there) or 'none'}"
    if named is None and len(there) == 1:
        return there[0]
    if named is None and not there:
        raise ValueError(f"{setting}: {shown} (add one to label.{_WHERE[setting]})")
    if named is None:
        raise ValueError(f"{setting} must be named where there is not just one: {shown}")
    if named not in there:
        raise ValueError(f"{setting}: no {named!r}, {shown}")
    return named


ObjectiveTerm = Annotated[
    TripletTerm
    | InfoNCETerm
    | SigLIPTerm
    | KendallTerm
    | LanguageGuidedMarginTerm
    | LadderTerm
    | SmoothNDCGTerm
    | SoftSpearmanTerm
    | CoSENTTerm
    | SoftLabelTerm,
    Field(discriminator="loss"),
]
