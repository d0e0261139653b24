"""A small student whose score has a parameter of its own, as CLIP's has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.students import Preprocessor, Student


class ScaledStudent(Student):
    """Means of pixels and of word vectors; the dot product times a learned factor."""

    def __init__(self, settings: dict[str, Any], preprocessor: Preprocessor) -> None:
        super().__init__(settings, preprocessor)
        self.words = nn.Embedding(4096, 8)
        self.image_layer, self.caption_layer = nn.Linear(3 * 16, 8), nn.Linear(8, 8)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def encode_images(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(images, 8) unit vectors."""
        small = functional.adaptive_avg_pool2d(batch["pixel_values"], 4).flatten(1)
        return functional.normalize(self.image_layer(small), dim=-1)

    def encode_captions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(captions, 8) unit vectors."""
        shown = batch["attention_mask"].unsqueeze(-1).float()
        mean = (self.words(batch["input_ids"]) * shown).sum(dim=1) / shown.sum(dim=1)
        return functional.normalize(self.caption_layer(mean), dim=-1)

    def score(self, image_encodings: Tensor, caption_encodings: Tensor) -> Tensor:
        """(images, captions) cosines times the factor."""
        return super().score(image_encodings, caption_encodings) * self.log_scale.exp()
