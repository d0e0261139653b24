"""From row numbers of a plan to what a training step needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.data.rows import CorpusRows
from bcls_core.similarity import LabelSetRelevance
from bcls_core.students import Preprocessor
from bcls_core.training.frozen import FrozenFeatures
from bcls_core.training.plan import BatchPlan

Inputs = dict[str, Tensor]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One worker's images and captions, and the whole step's labels.

    Attributes:
        images: student inputs of this worker's images.
        captions: student inputs of this worker's captions.
        relevances: per measure the (step, step) labels of the whole step, all workers together.
        sizes: rows of each worker.
    """

    images: Inputs
    captions: Inputs
    relevances: Mapping[str, Tensor]
    sizes: Sequence[int]

    def to(self, device: torch.device) -> Batch:
        def move(inputs: Mapping[str, Tensor]) -> Inputs:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}

        return Batch(move(self.images), move(self.captions), move(self.relevances), self.sizes)


class BatchSource:
    """Reads, decodes and tokenises rows of one split."""

    def __init__(
        self,
        rows: CorpusRows,
        preprocessor: Preprocessor,
        relevances: Mapping[str, LabelSetRelevance],
        frozen: FrozenFeatures,
    ) -> None:
        self.rows = rows
        self._preprocessor = preprocessor
        self._relevances = relevances
        self._frozen = frozen

    def batch(self, plan: BatchPlan, step: int, rank: int, size: int) -> Batch:
        """This worker's part of a step."""
        slices = [plan.slice(step, other, size) for other in range(size)]
        image_rows, caption_rows = slices[rank]
        return Batch(
            images=self.images(image_rows),
            captions=self.captions(caption_rows),
            relevances=self.relevance(*plan.step(step)),
            sizes=[len(images) for images, _ in slices],
        )

    def images(self, image_rows: Rows) -> Inputs:
        """Inputs of the image side: a frozen tower's stored features, or pixels."""
        if self._frozen.images is not None:
            return {"features": self._frozen.images.take(image_rows)}
        return self._preprocessor.prepare_images(self.rows.images(image_rows))

    def captions(self, caption_rows: Rows) -> Inputs:
        """Inputs of the caption side: a frozen tower's stored features, or tokens."""
        if self._frozen.captions is not None:
            return {"features": self._frozen.captions.take(caption_rows)}
        return self._preprocessor.prepare_captions(self.rows.captions(caption_rows))

    def relevance(self, image_rows: Rows, caption_rows: Rows) -> dict[str, Tensor]:
        """Per measure the (images, captions) labels."""
        own = [self.rows.caption_ids[self.rows.captions_of(row)] for row in image_rows]
        caption_ids = self.rows.caption_ids[caption_rows]
        return {name: torch.from_numpy(measure.rows(own, caption_ids)) for name, measure in self._relevances.items()}
