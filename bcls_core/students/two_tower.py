"""The two-tower student: a tower a side, each projected into one space, where the score is the cosine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from bcls_core.config.student import ConfiguredTextTower, GivenImageFeatures, GruTextTower, TwoTowerStudent
from bcls_core.errors import ModelError
from bcls_core.students.base import Batch, Student
from bcls_core.students.given_features import GivenFeatures
from bcls_core.students.gru_tower import GruTower
from bcls_core.students.preprocess import CaptionPreprocessor, ImagePreprocessor, NoImages, Preprocessor
from bcls_core.students.tokenizer import build_tokenizer
from bcls_core.students.towers import Tower, image_tower, restore_tower, text_tower
from bcls_core.teachers.lanes import records_states


class TwoTower(Student):
    """Encodings are unit vectors of length `dim`; a side given `features` starts at its projection.

    Args:
        settings: `dim`, `projection`, `dropout`, and `image` and `text` as `Tower.describe` gives them.
        preprocessor: what prepares the inputs of both towers.
        towers: (image, text); made from the settings, with random weights, if None.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        preprocessor: Preprocessor,
        towers: tuple[Tower | GivenFeatures, Tower | GruTower] | None = None,
    ) -> None:
        super().__init__(settings, preprocessor)
        self.image_tower, self.text_tower = towers or (
            _restore_image_side(settings["image"]),
            _restore_text_side(settings["text"]),
        )
        head = (settings["dim"], settings["projection"], settings["dropout"])
        self.image_projection = projection(self.image_tower.dim, *head)
        self.text_projection = projection(self.text_tower.dim, *head)

    @classmethod
    def from_recipe(cls, recipe: TwoTowerStudent, captions: Iterable[str]) -> TwoTower:
        """A new student; `captions` are read only if the text tower needs a tokenizer made.

        Raises:
            ModelError: a tower cannot be found, loaded or made.
        """
        image, images = _image_side(recipe)

        def make_tokenizer(text: ConfiguredTextTower | GruTextTower) -> Any:
            return build_tokenizer(captions, vocabulary=text.vocabulary, max_tokens=text.max_tokens)

        text: Tower | GruTower
        if isinstance(recipe.text, GruTextTower):
            tokenizer = make_tokenizer(recipe.text)
            text = GruTower(len(tokenizer), recipe.text.words, recipe.text.gru)
            texts = CaptionPreprocessor(tokenizer, recipe.text.max_tokens)
        else:
            text, texts = text_tower(recipe.text, make_tokenizer)
        heads = {"dim": recipe.dim, "projection": recipe.projection, "dropout": recipe.dropout}
        settings = {**heads, "image": image.describe(), "text": text.describe()}
        return cls(settings, Preprocessor(images, texts), (image, text))

    def encode_images(self, batch: Batch) -> Tensor:
        """(images, dim) unit vectors."""
        return self._project(self.image_projection, self.image_tower, batch)

    def encode_captions(self, batch: Batch) -> Tensor:
        """(captions, dim) unit vectors."""
        return self._project(self.text_projection, self.text_tower, batch)

    @property
    def pretrained_towers(self) -> list[nn.Module]:
        sides = (self.image_tower, self.text_tower)
        return [side.model for side in sides if isinstance(side, Tower) and side.pretrained and not side.frozen]

    @property
    def image_tower_frozen(self) -> bool:
        return self.image_tower.frozen

    @property
    def caption_tower_frozen(self) -> bool:
        return self.text_tower.frozen

    @property
    def frozen_towers_are_pure(self) -> bool:
        """Whether several threads may run the frozen towers at once."""
        return not any(
            side.frozen and records_states(side.model)
            for side in (self.image_tower, self.text_tower)
            if isinstance(side, Tower)
        )

    def frozen_image_features(self, prepared: Batch) -> Tensor:
        return self._frozen_features(self.image_tower, prepared)

    def frozen_caption_features(self, prepared: Batch) -> Tensor:
        return self._frozen_features(self.text_tower, prepared)

    def _project(self, head: nn.Module, tower: Tower | GivenFeatures | GruTower, batch: Batch) -> Tensor:
        features = batch["features"].to(next(head.parameters()).dtype) if "features" in batch else tower(batch)
        if features.ndim != 2 or features.shape[1] != tower.dim:
            raise ModelError(
                f"{tower.side} features have shape {tuple(features.shape)}, expected (n, {tower.dim}).\n"
                "  Compute the features with this student's own tower, or name their length in the recipe."
            )
        return functional.normalize(head(features), dim=-1)

    def _frozen_features(self, tower: Tower | GivenFeatures | GruTower, prepared: Batch) -> Tensor:
        if not tower.frozen:
            raise ModelError(
                f"the {tower.side} tower is trained: its outputs change.\n  Encode the inputs themselves in each step."
            )
        features: Tensor = tower(prepared)
        return features


def _image_side(recipe: TwoTowerStudent) -> tuple[Tower | GivenFeatures, ImagePreprocessor]:
    if isinstance(recipe.image, GivenImageFeatures):
        return GivenFeatures(recipe.image.features), NoImages()
    return image_tower(recipe.image)


def _restore_image_side(described: dict[str, Any]) -> Tower | GivenFeatures:
    return GivenFeatures(described["features"]) if "features" in described else restore_tower(described, "image")


def _restore_text_side(described: dict[str, Any]) -> Tower | GruTower:
    return GruTower(**described["gru"]) if "gru" in described else restore_tower(described, "text")


def projection(width: int, dim: int, kind: str, dropout: float) -> nn.Module:
    """(n, width) -> (n, dim): `linear`, or `mlp` (layer norm, one hidden layer of `dim` with GELU)."""
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, dim))
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim)
    )
