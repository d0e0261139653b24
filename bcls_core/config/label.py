"""How captions are compared, and what a label set keeps of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints

from bcls_core.config.base import RUNTIME, Section

MeasureName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]


class EmbeddingMeasureSettings(Section):
    """Cosine of sentence embeddings."""

    kind: Literal["embedding"]
    model: Annotated[str, RUNTIME] = Field(
        description="hub name, folder, or package:NAME for a model carried in an installed package"
    )
    revision: Annotated[str | None, RUNTIME] = None
    prompt: str = ""


class CiderMeasureSettings(Section):
    """Tf-idf cosine of the 1- to 4-grams; needs no weights."""

    kind: Literal["cider"]


MeasureSettings = Annotated[EmbeddingMeasureSettings | CiderMeasureSettings, Field(discriminator="kind")]


class LabelSettings(Section):
    measures: dict[MeasureName, MeasureSettings] = Field(min_length=1)
    neighbours: PositiveInt = 32
    gap_pairs: PositiveInt = Field(default=200_000, description="random image-caption pairs behind the gap quantiles")
    seed: NonNegativeInt = 0
