"""A small student with all that sharding has to cope with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.students import Preprocessor, Student

_WIDTH = 12


class Layer(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        return states + functional.gelu(self.layer(self.norm(states)))


class Tower(nn.Module):
    """An input layer, then blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, _WIDTH)
        self.blocks = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, 12)."""
        states = self.first(states)
        for block in self.blocks:
            states = block(states)
        return states


class LayeredStudent(Student):
    """Two towers of blocks; an image block and a caption block share a matrix, one is never trained, images pass a
    batch norm, and the score has a matrix and a scalar of its own. Both towers count as pretrained."""

    def __init__(self, settings: dict[str, Any], preprocessor: Preprocessor) -> None:
        super().__init__(settings, preprocessor)
        self.norm = nn.BatchNorm1d(3 * 16)
        self.words = nn.Embedding(4096, 9)
        self.image_tower, self.text_tower = Tower(3 * 16), Tower(9)
        self.text_tower.blocks[2].layer.weight = self.image_tower.blocks[2].layer.weight
        self.text_tower.blocks[0].requires_grad_(False)
        self.match = nn.Linear(_WIDTH, _WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.zeros(()))

    @property
    def pretrained_towers(self) -> list[nn.Module]:
        return [self.image_tower, self.text_tower]

    def encode_images(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(images, 12) unit vectors."""
        small = functional.adaptive_avg_pool2d(batch["pixel_values"], 4).flatten(1)
        return functional.normalize(self.image_tower(self.norm(small)), dim=-1)

    def encode_captions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(captions, 12) unit vectors."""
        shown = batch["attention_mask"].unsqueeze(-1).float()
        mean = (self.words(batch["input_ids"]) * shown).sum(dim=1) / shown.sum(dim=1)
        return functional.normalize(self.text_tower(mean), dim=-1)

    def score(self, image_encodings: Tensor, caption_encodings: Tensor) -> Tensor:
        """(images, captions) products after the matrix, times the factor."""
        return super().score(self.match(image_encodings), caption_encodings) * self.log_scale.exp()
