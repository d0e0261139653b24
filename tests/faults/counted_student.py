"""A small student that writes down each training step it takes, so that steps can be counted from outside."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.students import Preprocessor, Student

FOLDER = "BCLS_COUNTED_STEPS"
"""The environment variable that names the folder of the counts; nothing is counted without it."""

PAUSE = "BCLS_COUNTED_PAUSE"
"""The environment variable with the seconds that a step takes at least, so that there is time to be killed; 0.04."""


HUNGER = "BCLS_COUNTED_HUNGER"
"""The environment variable with the MiB of memory that the first step takes five times a second, until the process is
killed; without it, none."""


class CountedStudent(Student):
    """Means of pixels and of word vectors, a layer each, with dropout: what is random must be repeated exactly, too."""

    def __init__(self, settings: dict[str, Any], preprocessor: Preprocessor) -> None:
        super().__init__(settings, preprocessor)
        self.words = nn.Embedding(4096, 8)
        self.dropout = nn.Dropout(0.2)
        self.image_layer, self.caption_layer = nn.Linear(3 * 16, 8), nn.Linear(8, 8)

    def encode_images(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(images, 8) unit vectors."""
        if self.training and torch.is_grad_enabled():
            _count()
        small = functional.adaptive_avg_pool2d(batch["pixel_values"], 4).flatten(1)
        return functional.normalize(self.image_layer(self.dropout(small)), dim=-1)

    def encode_captions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(captions, 8) unit vectors."""
        shown = batch["attention_mask"].unsqueeze(-1).float()
        mean = (self.words(batch["input_ids"]) * shown).sum(dim=1) / shown.sum(dim=1)
        return functional.normalize(self.caption_layer(self.dropout(mean)), dim=-1)


def _count() -> None:
    time.sleep(float(os.environ.get(PAUSE, "0.04")))
    taken: list[Tensor] = []
    while HUNGER in os.environ:
        taken.append(torch.ones(int(os.environ[HUNGER]) << 20, dtype=torch.uint8))
        time.sleep(0.2)
    if FOLDER in os.environ:
        rank = dist.get_rank() if dist.is_initialized() else 0
        with Path(os.environ[FOLDER], str(rank)).open("a") as file:
            file.write(f"{socket.gethostname()}\n")


def counted(folder: Path) -> dict[int, int]:
    """Steps that each rank began, over all attempts."""
    return {rank: len(hosts) for rank, hosts in stepped_on(folder).items()}


def stepped_on(folder: Path) -> dict[int, list[str]]:
    """The host of each step that each rank began, in order, over all attempts."""
    return {int(path.name): path.read_text().splitlines() for path in folder.iterdir()}
