"""From row numbers of a plan to what a training step needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.data.pixels import UNREADABLE
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import CorpusError
from bcls_core.similarity import LabelSetRelevance
from bcls_core.students import Preprocessor
from bcls_core.students.preprocess import decode
from bcls_core.training.augment import Augmentation
from bcls_core.training.frozen import FrozenFeatures
from bcls_core.training.plan import BatchPlan
from bcls_core.training.said import Said

Inputs = dict[str, Tensor]
StepInputs = tuple[Inputs, Inputs]
"""Of images and of their captions, row by row."""
Rows = NDArray[np.int64]
Says = Callable[[Rows, Rows], Said]
"""Rows of a split's images, or captions, and others of them -> what a teacher says of each with each."""


_NOTHING_FROZEN = FrozenFeatures()


@dataclass(frozen=True)
class Relevance:
    """Labels of one worker's rows against the columns of the whole step.

    Attributes:
        i2t: (this worker's images, the step's captions).
        t2i: (this worker's captions, the step's images); None where one worker has the whole step: the transpose.
    """

    i2t: Tensor
    t2i: Tensor | None = None

    def to(self, device: torch.device) -> Relevance:
        return Relevance(
            self.i2t.to(device, non_blocking=True),
            None if self.t2i is None else self.t2i.to(device, non_blocking=True),
        )


class Teaching(NamedTuple):
    """What is read of a teacher.

    Attributes:
        teacher: an image teacher, or a measure.
        labels: `batch`: its similarities; `corpus`: logarithms of its corpus-wide soft labels.
    """

    teacher: str
    labels: Literal["batch", "corpus"] = "batch"


@dataclass(frozen=True)
class Teachers:
    """What teachers say of this worker's pairs and the pairs of the whole step: (rows, step's rows) each.

    Attributes:
        images, captions: of the pairs' images, and of their captions.
    """

    images: Mapping[Teaching, Said] = field(default_factory=dict)
    captions: Mapping[Teaching, Said] = field(default_factory=dict)

    def to(self, device: torch.device) -> Teachers:
        images, captions = (
            {one: said.to(device) for one, said in side.items()} for side in (self.images, self.captions)
        )
        return Teachers(images, captions)


NO_TEACHERS = Teachers()


@dataclass(frozen=True)
class Batch:
    """One worker's images and captions, and their labels.

    Attributes:
        images: student inputs of this worker's images.
        captions: student inputs of this worker's captions.
        relevances: per measure the labels.
        sizes: rows of each worker.
        teachers: what they say of these pairs.
    """

    images: Inputs
    captions: Inputs
    relevances: Mapping[str, Relevance]
    sizes: Sequence[int]
    teachers: Teachers = NO_TEACHERS

    def to(self, device: torch.device) -> Batch:
        relevances = {name: relevance.to(device) for name, relevance in self.relevances.items()}
        images, captions = _moved(self.images, device), _moved(self.captions, device)
        return Batch(images, captions, relevances, self.sizes, self.teachers.to(device))


def _moved(tensors: Mapping[str, Tensor], device: torch.device) -> Inputs:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


class InputSource:
    """Reads, decodes, varies and tokenises rows of one split; picklable, so that other processes do it, too."""

    def __init__(
        self,
        rows: CorpusRows,
        preprocessor: Preprocessor,
        frozen: FrozenFeatures = _NOTHING_FROZEN,
        augment: Augmentation | None = None,
    ) -> None:
        """
        Args:
            augment: how the pictures of steps are varied; those of `images` never are.
        """
        self.rows = rows
        self._augment = augment
        self._preprocessor = preprocessor
        self._frozen = frozen

    def step(self, epoch: int, image_rows: Rows, caption_rows: Rows) -> StepInputs:
        """What a student takes of some captions and of the image of each, in an epoch of training."""
        return self._training_images(epoch, image_rows, caption_rows), self.captions(caption_rows)

    def images(self, image_rows: Rows) -> Inputs:
        """Inputs of the image side: features of the corpus, or of a frozen tower, or pixels.

        Raises:
            CorpusError: a picture cannot be decoded; names its image.
        """
        if not self.rows.has_images:
            return {"features": torch.from_numpy(self.rows.features(image_rows).astype(np.float32))}
        if self._frozen.images is not None:
            return {"features": self._frozen.images.take(image_rows)}
        return self._prepared(image_rows, self.rows.images(image_rows))

    def captions(self, caption_rows: Rows) -> Inputs:
        """Inputs of the caption side: a frozen tower's stored features, or tokens."""
        if self._frozen.captions is not None:
            return {"features": self._frozen.captions.take(caption_rows)}
        return self._preprocessor.prepare_captions(self.rows.captions(caption_rows))

    def _training_images(self, epoch: int, image_rows: Rows, caption_rows: Rows) -> Inputs:
        if self._augment is None:
            return self.images(image_rows)
        raw = self.rows.images(image_rows)
        pictures = []
        for row, image, caption in zip(image_rows, raw, self.rows.caption_ids[caption_rows].tolist(), strict=True):
            try:
                pictures.append(self._augment(image, epoch, caption))
            except UNREADABLE as error:
                raise self._unreadable(row, error) from error
        return self._preprocessor.prepare_images(pictures)

    def _prepared(self, image_rows: Rows, raw: list[bytes]) -> Inputs:
        try:
            return self._preprocessor.prepare_images(raw)
        except CorpusError:
            for row, image in zip(image_rows, raw, strict=True):
                try:
                    decode(image)
                except UNREADABLE as error:
                    raise self._unreadable(row, error) from error
            raise

    def _unreadable(self, row: int, error: Exception) -> CorpusError:
        return CorpusError(
            f"{self.rows.corpus.url}: image {self.rows.image_ids[row]!r} of split {self.rows.split} cannot be decoded: "
            f"{error}\n  It could be when it was ingested: run `bcls artifacts verify corpus`, and ingest again."
        )


class BatchSource:
    """Inputs and labels of one split."""

    def __init__(
        self,
        inputs: InputSource,
        relevances: Mapping[str, LabelSetRelevance],
        image_teachers: Mapping[Teaching, Says] = MappingProxyType({}),
        caption_teachers: Mapping[Teaching, Says] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            relevances: per measure, for labels of captions for images.
            image_teachers: what they say of image rows and image rows.
            caption_teachers: what they say of caption rows and caption rows.
        """
        self.inputs = inputs
        self.rows = inputs.rows
        self._relevances = relevances
        self._image_teachers = image_teachers
        self._caption_teachers = caption_teachers

    def batch(self, plan: BatchPlan, step: int, rank: int, size: int, inputs: StepInputs | None = None) -> Batch:
        """This worker's part of a step.

        Args:
            inputs: what `InputSource.step` gives of its rows, where somebody has made it already.
        """
        slices = [plan.slice(step, other, size) for other in range(size)]
        images, captions = inputs or self.inputs.step(plan.epoch, *slices[rank])
        return Batch(
            images=images,
            captions=captions,
            relevances=self._relevances_of(plan.step(step), slices[rank], alone=size == 1),
            sizes=[len(rows) for rows, _ in slices],
            teachers=self._teachers_of(plan.step(step), slices[rank]),
        )

    def relevance(self, image_rows: Rows, caption_rows: Rows) -> dict[str, Tensor]:
        """Per measure the (images, captions) labels."""
        own = [self.rows.caption_ids[self.rows.captions_of(row)] for row in image_rows]
        caption_ids = self.rows.caption_ids[caption_rows]
        return {name: torch.from_numpy(measure.rows(own, caption_ids)) for name, measure in self._relevances.items()}

    def _relevances_of(self, step: tuple[Rows, Rows], mine: tuple[Rows, Rows], *, alone: bool) -> dict[str, Relevance]:
        all_images, all_captions = step
        my_images, my_captions = mine
        i2t = self.relevance(my_images, all_captions)
        if alone:
            return {name: Relevance(labels) for name, labels in i2t.items()}
        t2i = self.relevance(all_images, my_captions)
        return {name: Relevance(labels, t2i[name].T) for name, labels in i2t.items()}

    def _teachers_of(self, step: tuple[Rows, Rows], mine: tuple[Rows, Rows]) -> Teachers:
        sides = zip((self._image_teachers, self._caption_teachers), mine, step, strict=True)
        return Teachers(*({name: says(own, every) for name, says in side.items()} for side, own, every in sides))
