"""Where a corpus comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from bcls_core.config.base import RUNTIME, Section

Split = Literal["train", "val", "test"]


class DemoIngest(Section):
    """Procedurally drawn scenes: deterministic from `seed`, no download."""

    source: Literal["demo"]
    train: PositiveInt = 1200
    val: PositiveInt = 200
    test: PositiveInt = 200
    seed: NonNegativeInt = 7
    size: int = Field(default=64, ge=32, le=512, description="side of the square images, pixels")


class KarpathyIngest(Section):
    """Annotations in the Karpathy format, with an image folder or with features only."""

    source: Literal["karpathy"]
    annotations: Annotated[Path, RUNTIME]
    images: Annotated[Path | None, RUNTIME] = None
    features: Annotated[Path | None, RUNTIME] = None
    splits: dict[str, Split] = Field(default={"restval": "train"}, description="renames splits of the source")
    resize: PositiveInt | None = Field(
        default=None, description="longest allowed shorter side, pixels; larger images shrink"
    )
    max_pixels: PositiveInt = Field(default=64_000_000, description="an image that would decode to more is rejected")

    @model_validator(mode="after")
    def _has_a_visual_side(self) -> KarpathyIngest:
        if (self.images is None) == (self.features is None):
            raise ValueError("give exactly one of images (a folder) and features (an .npz file)")
        return self


IngestSettings = Annotated[DemoIngest | KarpathyIngest, Field(discriminator="source")]
