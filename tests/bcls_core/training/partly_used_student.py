"""A small student that does what data parallelism finds hard, and keeps a running mean that its training reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.students import Preprocessor, Student


class PartlyUsedStudent(Student):
    """A layer is never used, another one is dropped at random, by each worker for itself; images are centred by a
    running mean, which is replaced rather than changed."""

    centre: Tensor

    def __init__(self, settings: dict[str, Any], preprocessor: Preprocessor) -> None:
        super().__init__(settings, preprocessor)
        self.words = nn.Embedding(4096, 8)
        self.image_layer, self.caption_layer, self.dropped = nn.Linear(3 * 16, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.never_used = nn.Linear(8, 8)
        self.register_buffer("centre", torch.zeros(3 * 16))

    def encode_images(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(images, 8) unit vectors."""
        small = functional.adaptive_avg_pool2d(batch["pixel_values"], 4).flatten(1)
        if self.training:
            self.centre = self.centre + 0.1 * (small.detach().mean(dim=0) - self.centre)
        return functional.normalize(self.image_layer(small - self.centre), dim=-1)

    def encode_captions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(captions, 8) unit vectors."""
        shown = batch["attention_mask"].unsqueeze(-1).float()
        mean = (self.words(batch["input_ids"]) * shown).sum(dim=1) / shown.sum(dim=1)
        if not self.training or float(torch.rand(())) < 0.5:
            mean = mean + self.dropped(mean)
        return functional.normalize(self.caption_layer(mean), dim=-1)
