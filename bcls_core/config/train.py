"""How a student is trained."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bcls_core.config.base import Section
from bcls_core.config.objective import ObjectiveTerm
from bcls_core.config.student import StudentSettings


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
