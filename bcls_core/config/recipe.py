"""A recipe: one complete, readable description of a corpus, its labels, a training and its evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from bcls_core.config.base import RUNTIME, Section
from bcls_core.config.ingest import IngestSettings, Split
from bcls_core.config.label import LabelSettings
from bcls_core.config.objective import SoftLabelTerm
from bcls_core.config.train import TrainSettings

RegistryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def _not_reserved(alias: str) -> str:
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise ValueError(f"{alias!r} is a name that MLflow keeps for itself; choose another, such as champion")
    return alias


Alias = Annotated[RegistryName, AfterValidator(_not_reserved)]
MethodName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 +-]{0,59}$")]


class EvaluateSettings(Section):
    split: Split = "test"
    ratings: Annotated[list[Path], RUNTIME] = Field(
        default_factory=list, description="files of people's ratings of captions for images: human relevance"
    )
    caption_ratings: Annotated[list[Path], RUNTIME] = Field(
        default_factory=list, description="files of people's ratings of how alike two captions are (STS)"
    )
    image_groups: Annotated[Path | None, RUNTIME] = Field(
        default=None, description="CSV of image_id and group: image-to-image retrieval within the groups"
    )
    coco: Annotated[str | None, RUNTIME] = Field(
        default=None,
        description="`package` (eccv-caption) or a folder with its ground truth: COCO 1K and 5K, CxC, ECCV Caption",
    )


class RegistrySettings(Section):
    model: RegistryName | None = Field(default=None, description="registered model name; the recipe's name if unset")
    alias: Alias = "champion"
    max_drop: float = Field(default=0.0, ge=0.0, description="points of val rsum the alias may lose when it moves")


class RuntimeSettings(Section):
    """How the work is done; nothing here changes a result's fingerprint."""

    root: str = Field(default="./bcls-data", description="folder or fsspec URL of all artefacts")
    backend: Literal["ray", "local"] = "ray"
    workers: PositiveInt = 2
    least_workers: PositiveInt | None = Field(
        default=None, description="training workers that will do while nodes are away; all of them if unset"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    shard_images: PositiveInt = 512
    panel_captions: PositiveInt = Field(
        default=16_384, description="captions whose neighbours one piece finds; the whole split at once is fastest"
    )
    checkpoint_steps: PositiveInt = Field(
        default=500, description="training steps after which a checkpoint is written, beside that after each epoch"
    )
    data_workers: NonNegativeInt | None = Field(
        default=None,
        description="processes on Ray beside each training worker that decode and tokenise; unset: none beside a CPU, "
        "up to eight beside a GPU",
    )
    compile: bool = Field(default=False, description="train with code that torch.compile makes for the towers")
    activation_checkpointing: bool = Field(
        default=False, description="train with activations computed again instead of kept: slower, in less memory"
    )
    fsdp: bool = Field(
        default=False, description="train with parameters and optimiser sharded over the workers, for large towers"
    )
    mlflow_uri: str | None = Field(default=None, description="tracking server; <root>/mlflow.db if unset")
    mlflow_username: str | None = None
    mlflow_password: SecretStr | None = None

    @model_validator(mode="after")
    def _least_is_not_most(self) -> RuntimeSettings:
        if self.least_workers is not None and self.least_workers > self.workers:
            raise ValueError(f"least_workers={self.least_workers} are more than workers={self.workers}")
        return self

    @model_validator(mode="after")
    def _sharded_towers_are_not_compiled(self) -> RuntimeSettings:
        if self.compile and self.fsdp:
            raise ValueError("compile=true and fsdp=true do not go together; leave one of them off")
        return self

    @field_validator("mlflow_uri")
    @classmethod
    def _holds_no_password(cls, uri: str | None) -> str | None:
        if uri and uri.startswith("http") and "@" in uri:
            raise ValueError("an address must not hold a user or password; give mlflow_username and mlflow_password")
        return uri


class Recipe(Section):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    ingest: IngestSettings
    label: LabelSettings
    train: TrainSettings
    evaluate: EvaluateSettings = EvaluateSettings()
    registry: RegistrySettings = RegistrySettings()
    runtime: Annotated[RuntimeSettings, RUNTIME] = RuntimeSettings()
    methods: Annotated[dict[MethodName, dict[str, Any]], RUNTIME] = Field(
        default={}, description="what `bcls bench methods` compares: settings that stand in the place of those of train"
    )

    @model_validator(mode="after")
    def _measures_that_are_read_exist(self) -> Recipe:
        for setting, measure in self.train.measures_read().items():
            if measure not in self.label.measures:
                raise ValueError(f"{setting} names {measure!r}, label.measures has {', '.join(self.label.measures)}")
        return self

    @model_validator(mode="after")
    def _teachers_that_are_read_exist(self) -> Recipe:
        self.train.teachers_read(self.label.image_teachers, self.label.measures, "label")
        for index, term in enumerate(self.train.objective):
            if isinstance(term, SoftLabelTerm) and term.labels == "corpus" and self.label.soft_labels is None:
                raise ValueError(f"train.objective[{index}].labels: corpus needs label.soft_labels")
        return self
