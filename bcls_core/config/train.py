"""How a student is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from bcls_core.config.base import Section
from bcls_core.config.label import (
    DescriptorTeacherSettings,
    EmbeddingMeasureSettings,
    MeasureName,
    VisionTeacherSettings,
)
from bcls_core.config.objective import ObjectiveTerm, SoftLabelTerm
from bcls_core.config.presets import expanded
from bcls_core.config.student import GivenImageFeatures, PretrainedTower, StudentSettings, TwoTowerStudent


class RandomBatches(Section):
    """Captions meet by chance."""

    kind: Literal["random"] = "random"


class RelatedBatches(Section):
    """Part of each batch is groups of related images: a caption and its neighbours in the label set."""

    kind: Literal["related"]
    measure: MeasureName = Field(description="whose neighbours are brought together")
    share: float = Field(default=0.5, gt=0.0, le=1.0, description="of each batch, how much may stand in groups")
    neighbours: PositiveInt = Field(default=8, description="that join a caption; label.neighbours bounds it")


BatchSettings = Annotated[RandomBatches | RelatedBatches, Field(discriminator="kind")]


class AugmentSettings(Section):
    """Pictures are varied while training; captions stay as they are, so a mirror image may belie "left" and "right"."""

    crop: float = Field(default=1.0, gt=0.0, le=1.0, description="smallest share of a picture that a random crop keeps")
    flip: bool = Field(default=False, description="show every other picture as its mirror image")


LiveImageTeacher = Annotated[VisionTeacherSettings | DescriptorTeacherSettings, Field(discriminator="kind")]


class LiveTeachers(Section):
    """Teachers that encode what a step trains on, instead of being read from the label set: nothing is kept of what
    they say, and the same is said again in every epoch."""

    images: dict[MeasureName, LiveImageTeacher] = Field(default={})
    captions: dict[MeasureName, EmbeddingMeasureSettings] = Field(default={})

    @model_validator(mode="after")
    def _keep_nothing(self) -> LiveTeachers:
        for name, teacher in self.images.items():
            if isinstance(teacher, VisionTeacherSettings) and teacher.regions:
                raise ValueError(f"images.{name}.regions: what live teachers say is not kept; leave it out")
        return self


class TrainSettings(Section):
    student: StudentSettings
    objective: Annotated[list[ObjectiveTerm], BeforeValidator(expanded)] = Field(min_length=1)
    live_teachers: LiveTeachers = Field(
        default=LiveTeachers(), description="teachers of soft labels that are not in the label set"
    )
    batch_size: int = Field(default=128, ge=2, description="captions (and images) a step, over all workers")
    batches: BatchSettings = Field(default=RandomBatches(), description="which captions meet in a step")
    mini_batch_size: int | None = Field(
        default=None, ge=2, description="captions a worker encodes at once (gradient caching); its whole part if unset"
    )
    augment: AugmentSettings = AugmentSettings()
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16: towers under autocast")
    epochs: PositiveInt = 10
    patience: PositiveInt | None = Field(
        default=None,
        description="epochs without a better val rsum after which training ends, frozen ones not counted; never if "
        "unset",
    )
    learning_rate: PositiveFloat = 5e-4
    tower_learning_rate: PositiveFloat | None = Field(
        default=None, description="of trained towers that came with weights; learning_rate if unset"
    )
    layer_decay: float = Field(
        default=1.0, gt=0.0, le=1.0, description="factor on that rate for each layer further from the output"
    )
    frozen_epochs: NonNegativeInt = Field(
        default=0, description="first epochs, in which trained towers that came with weights stay as they came"
    )
    final_learning_rate: NonNegativeFloat = Field(default=0.0, description="where the cosine ends")
    warmup: float = Field(default=0.05, ge=0.0, lt=1.0, description="share of all steps with a rising learning rate")
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: PositiveFloat = 2.0
    average: float | None = Field(
        default=None, gt=0.0, lt=1.0, description="decay of a moving average of the weights, which is the model then"
    )

    def measures_read(self) -> dict[str, str]:
        """The relevance measures that are read, by the setting that names them."""
        named = {
            f"train.objective[{place}].{setting}": measure
            for place, term in enumerate(self.objective)
            for setting, measure in term.measures().items()
        }
        if isinstance(self.batches, RelatedBatches):
            named["train.batches.measure"] = self.batches.measure
        return named

    def teachers_read(
        self, image_teachers: Iterable[str], measures: Iterable[str], where: str
    ) -> list[tuple[str | None, str | None]]:
        """Of each term the image teacher and the caption measure it reads; None of one that it does not.

        Args:
            image_teachers, measures: which the label set has.
            where: that is, for errors.
        Raises:
            ValueError: a teacher is not there, is there twice, or is not the only one where none is named.
        """
        live = set(self.live_teachers.images), set(self.live_teachers.captions)
        held = set(image_teachers), set(measures)
        for twice in (live[0] & held[0], live[1] & held[1]):
            if twice:
                raise ValueError(f"train.live_teachers: {sorted(twice)[0]!r} is there already, in {where}. Rename it")
        read: list[tuple[str | None, str | None]] = []
        for place, term in enumerate(self.objective):
            named: tuple[str | None, str | None] = (None, None)
            if isinstance(term, SoftLabelTerm):
                try:
                    named = term.teachers(live[0] | held[0], live[1] | held[1])
                except ValueError as error:
                    raise ValueError(
                        f"train.objective[{place}]: {error}, in {where} and train.live_teachers"
                    ) from error
                for name, of_live in zip(named, live, strict=True):
                    if term.labels == "corpus" and name in of_live:
                        raise ValueError(
                            f"train.objective[{place}].labels: corpus are those of a label set, and {name!r} is in "
                            "train.live_teachers"
                        )
            read.append(named)
        return read

    @model_validator(mode="after")
    def _towers_to_train(self) -> TrainSettings:
        if self.frozen_epochs >= self.epochs:
            raise ValueError(
                f"frozen_epochs={self.frozen_epochs} are all of epochs={self.epochs}: towers that came with weights "
                "would never be trained. Lower frozen_epochs, or give these towers `trained: false`"
            )
        return self

    @model_validator(mode="after")
    def _pictures_to_vary(self) -> TrainSettings:
        image = self.student.image if isinstance(self.student, TwoTowerStudent) else None
        frozen = isinstance(image, PretrainedTower) and not image.trained
        if self.augment != AugmentSettings() and (frozen or isinstance(image, GivenImageFeatures)):
            raise ValueError(
                "augment varies pictures, and this training reads none: its image side is "
                f"{'a frozen tower, whose features are computed once' if frozen else 'features'}. Leave it out, or "
                "train an image tower"
            )
        return self

    seed: int = Field(default=0, ge=0, lt=2**64)
