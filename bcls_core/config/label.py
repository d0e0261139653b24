"""How captions are compared, and what a label set keeps of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from bcls_core.config.base import LATER, RUNTIME, Section

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


class CiderDMeasureSettings(Section):
    """CIDEr with clipped counts and a penalty for unequal lengths; needs no weights."""

    kind: Literal["cider-d"]


MeasureSettings = Annotated[
    EmbeddingMeasureSettings | CiderMeasureSettings | CiderDMeasureSettings, Field(discriminator="kind")
]


class VisionTeacherSettings(Section):
    """A vision model of `transformers`: one vector a picture."""

    kind: Literal["vision"]
    model: Annotated[str, RUNTIME] = Field(
        description="hub name, folder, or package:NAME for a model carried in an installed package"
    )
    revision: Annotated[str | None, RUNTIME] = None
    pooling: Literal["auto", "mean", "cls", "pooler"] = "auto"
    regions: Annotated[bool, LATER] = Field(
        default=False, description="keep, beside it, a vector of each cell of the last map"
    )


class DescriptorTeacherSettings(Section):
    """Histograms of gradients and of colours; needs no weights."""

    kind: Literal["descriptors"]


class FeatureTeacherSettings(Section):
    """Vectors made elsewhere."""

    kind: Literal["features"]
    file: Annotated[Path | None, RUNTIME] = Field(
        default=None, description=".npz, .npy with ids, or Parquet; the features that the corpus was made from if unset"
    )
    ids: Annotated[Path | None, RUNTIME] = Field(
        default=None, description="image ids of an .npy, one a line in the order of its rows"
    )

    @model_validator(mode="after")
    def _ids_belong_to_an_npy(self) -> FeatureTeacherSettings:
        bare = self.file is not None and self.file.suffix == ".npy"
        if bare and self.ids is None:
            raise ValueError(f"{self.file} holds no image ids: name a text file of them, one a line, as ids")
        if self.ids is not None and not bare:
            raise ValueError(f"ids go with an .npy; {self.file or 'the corpus'} holds its own. Leave them out")
        return self


ImageTeacherSettings = Annotated[
    VisionTeacherSettings | DescriptorTeacherSettings | FeatureTeacherSettings, Field(discriminator="kind")
]


class ExactSearch(Section):
    """All pairs: nothing is missed."""

    kind: Literal["exact"] = "exact"


class IvfSearch(Section):
    """Inverted files: only rows of the clusters nearest to a query are compared with it; for embeddings."""

    kind: Literal["ivf"]
    clusters: PositiveInt | None = Field(default=None, description="the square root of a split's captions if unset")
    probes: PositiveInt = Field(default=32, description="clusters that a query looks into")
    most_rows: PositiveInt = Field(default=65_536, description="captions of a cluster; larger ones are split")
    recall_sample: PositiveInt = Field(default=1000, description="captions searched exactly as well")
    recall_floor: float = Field(
        default=0.95, ge=0.0, le=1.0, description="recall, at the lower end of its interval, that rejects the labels"
    )


SearchSettings = Annotated[ExactSearch | IvfSearch, Field(discriminator="kind")]


class SoftLabelSettings(Section):
    """Distributions over a split's captions, `softmax(similarity / temperature)`."""

    temperature: PositiveFloat = 0.05
    tail_sample: PositiveInt = Field(default=1024, description="captions from which the mass beyond k is estimated")


class LabelSettings(Section):
    measures: dict[MeasureName, MeasureSettings] = Field(min_length=1)
    image_teachers: Annotated[dict[MeasureName, ImageTeacherSettings], LATER] = Field(
        default={}, description="what says how alike images are, as measures do of captions"
    )
    neighbours: PositiveInt = 32
    search: SearchSettings = ExactSearch()
    soft_labels: SoftLabelSettings | None = SoftLabelSettings()
    gap_pairs: PositiveInt = Field(default=200_000, description="random image-caption pairs behind the gap quantiles")
    frequencies_of: Annotated[str | None, RUNTIME] = Field(
        default=None,
        description="label set whose document frequencies weigh the n-grams; they are counted in this corpus if unset",
    )
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _clusters_need_embeddings(self) -> LabelSettings:
        if isinstance(self.search, IvfSearch):
            for name, measure in self.measures.items():
                if not isinstance(measure, EmbeddingMeasureSettings):
                    raise ValueError(
                        f"search: ivf clusters embeddings, and measure {name!r} is of kind {measure.kind}. Leave the "
                        "measure to a label set of its own, or search exactly"
                    )
        return self

    @model_validator(mode="after")
    def _frequencies_need_ngrams(self) -> LabelSettings:
        if self.frequencies_of is not None and not self.counts_ngrams:
            raise ValueError(
                f"frequencies_of: {self.frequencies_of} weighs n-grams, and no measure counts any. Leave it out, or "
                "add a measure of kind cider or cider-d"
            )
        return self

    @field_validator("frequencies_of")
    @classmethod
    def _names_a_version(cls, version: str | None) -> str | None:
        if version == "current":
            raise ValueError("current is another label set once this one is made; name a version")
        return version

    @property
    def counts_ngrams(self) -> bool:
        """Whether some measure needs document frequencies."""
        return any(not isinstance(measure, EmbeddingMeasureSettings) for measure in self.measures.values())
