"""Which student is trained, and from what its towers are made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveInt, StringConstraints, Tag, field_validator, model_validator

from bcls_core.config.base import RUNTIME, Section


class PretrainedTower(Section):
    """A `transformers` or sentence-transformers model with its weights."""

    model: Annotated[str, RUNTIME] = Field(
        description="hub name, folder, or package:NAME for a model carried in an installed package"
    )
    revision: Annotated[str | None, RUNTIME] = None
    trained: bool = False
    pooling: Literal["auto", "mean", "cls", "pooler"] = "auto"


class ConfiguredTower(Section):
    """A `transformers` model with random weights, from its configuration; always trained."""

    config: dict[str, Any] = Field(description="model_type and whatever that configuration class takes")
    pooling: Literal["auto", "mean", "cls", "pooler"] = "auto"

    @field_validator("config")
    @classmethod
    def _names_its_type(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("model_type"), str):
            raise ValueError("needs model_type, for instance {model_type: resnet}")
        return config


class ConfiguredImageTower(ConfiguredTower):
    size: PositiveInt = Field(default=64, description="side of the square input, pixels")


class ConfiguredTextTower(ConfiguredTower):
    """Its tokenizer is built from the corpus's training captions."""

    vocabulary: PositiveInt = Field(default=4096, description="most words the tokenizer keeps")
    max_tokens: PositiveInt = 48


class GruTextTower(Section):
    """Word vectors and a GRU that reads both ways, from random weights; its tokenizer is built as that of the above."""

    gru: PositiveInt = Field(description="length of a state, and so of a caption's vector")
    words: PositiveInt = Field(default=300, description="length of a word's vector")
    vocabulary: PositiveInt = Field(default=8192, description="most words the tokenizer keeps")
    max_tokens: PositiveInt = 48


class GivenImageFeatures(Section):
    """No tower: the image side is a projection of the features that the corpus was made from."""

    features: PositiveInt = Field(description="length of an image's features")


def _tower_kind(value: Any) -> str:
    """Told apart by their keys, so that an error speaks of one kind of tower and not of both."""
    keys = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    kinds = {"config": "configured", "features": "given", "gru": "gru"}
    return next((kind for key, kind in kinds.items() if key in keys), "pretrained")


ImageTowerSettings = Annotated[
    Annotated[PretrainedTower, Tag("pretrained")]
    | Annotated[ConfiguredImageTower, Tag("configured")]
    | Annotated[GivenImageFeatures, Tag("given")],
    Discriminator(_tower_kind),
]
TextTowerSettings = Annotated[
    Annotated[PretrainedTower, Tag("pretrained")]
    | Annotated[ConfiguredTextTower, Tag("configured")]
    | Annotated[GruTextTower, Tag("gru")],
    Discriminator(_tower_kind),
]


class TwoTowerStudent(Section):
    """An image tower and a text tower, each with a projection into one space; the score is the cosine."""

    kind: Literal["two-tower"]
    image: ImageTowerSettings
    text: TextTowerSettings
    dim: PositiveInt = 256
    projection: Literal["linear", "mlp"] = "linear"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


class ClipStudent(Section):
    """A whole dual encoder of `transformers` (CLIP, SigLIP and the like), fine-tuned, or from random weights."""

    kind: Literal["clip"]
    model: Annotated[str | None, RUNTIME] = Field(
        default=None, description="hub name, folder, or package:NAME for a model carried in an installed package"
    )
    revision: Annotated[str | None, RUNTIME] = None
    config: dict[str, Any] | None = Field(
        default=None, description="instead of a model: model_type (clip, siglip, ...), text_config, vision_config, ..."
    )
    size: PositiveInt = Field(default=64, description="side of the square input, pixels; with config")
    vocabulary: PositiveInt = Field(default=4096, description="most words the tokenizer keeps; with config")
    max_tokens: PositiveInt = Field(default=48, description="with config")

    @model_validator(mode="after")
    def _has_one_origin(self) -> ClipStudent:
        if (self.model is None) == (self.config is None):
            raise ValueError("give exactly one of model (with weights) and config (random weights)")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("config needs model_type, for instance {model_type: clip}")
        given = {"size", "vocabulary", "max_tokens"} & self.model_fields_set
        if self.model is not None and given:
            raise ValueError(f"a model brings its own {', '.join(sorted(given))}: leave it out")
        return self


class CustomStudent(Section):
    """A user's own model: one class in the user's own file."""

    kind: Literal["custom"]
    target: Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")] = Field(description="module.path:ClassName")
    settings: dict[str, Any] = Field(default_factory=dict)


StudentSettings = Annotated[TwoTowerStudent | ClipStudent | CustomStudent, Field(discriminator="kind")]
