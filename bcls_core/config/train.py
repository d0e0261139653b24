"""What is optimised, and how."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from bcls_core.config.base import Section
from bcls_core.config.label import MeasureName
from bcls_core.config.student import StudentSettings


class TripletTerm(Section):
    """`triplet_loss`: the matched caption must win by a margin."""

    loss: Literal["triplet"]
    weight: PositiveFloat = 1.0
    mining: Literal["sum", "hardest", "soft", "selective"] = "soft"
    variant: Literal["smooth", "logsumexp", "softmax"] = "smooth"
    margin: NonNegativeFloat = 0.2
    tau: PositiveFloat = 0.02
    eps: NonNegativeFloat = 0.01


class KendallTerm(Section):
    """`kendall_loss`: scores must order captions as the labels of one relevance measure do."""

    loss: Literal["kendall"]
    relevance: MeasureName
    weight: PositiveFloat = 1.0
    gap: NonNegativeFloat | str = "p60"
    surrogate: Literal["hinge", "softplus", "sigmoid", "tanh"] = "hinge"
    margin: NonNegativeFloat = 0.0
    tau: PositiveFloat = 0.05
    normalise: Literal["batch", "query"] = "batch"

    @field_validator("gap")
    @classmethod
    def _is_a_percentile(cls, gap: float | str) -> float | str:
        if isinstance(gap, str) and (not re.fullmatch(r"p\d{1,2}", gap)):
            raise ValueError("a gap is a number in label units or a percentile from p0 to p99")
        return gap


ObjectiveTerm = Annotated[TripletTerm | KendallTerm, Field(discriminator="loss")]


class TrainSettings(Section):
    student: StudentSettings
    objective: list[ObjectiveTerm] = Field(min_length=1)
    batch_size: int = Field(default=128, ge=2, description="captions (and images) a step, over all workers")
    epochs: PositiveInt = 10
    learning_rate: PositiveFloat = 5e-4
    final_learning_rate: NonNegativeFloat = Field(default=0.0, description="where the cosine ends")
    warmup: float = Field(default=0.05, ge=0.0, lt=1.0, description="share of all steps with a rising learning rate")
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: PositiveFloat = 2.0
    seed: NonNegativeInt = 0
