"""What training reads of teachers: those of a label set, or live ones that encode what a step trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bcls_core.config import DescriptorTeacherSettings
from bcls_core.config.train import LiveTeachers
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import CorpusError
from bcls_core.similarity import ImageSimilarity, LabelSetRelevance
from bcls_core.similarity.corpus_soft_labels import corpus_soft_labels_of_captions, corpus_soft_labels_of_images
from bcls_core.store import Artifact
from bcls_core.teachers.descriptors import Descriptors
from bcls_core.teachers.image import ImageTeacher, Teacher
from bcls_core.teachers.text import TextTeacher
from bcls_core.training.batches import Rows, Says, Teaching
from bcls_core.training.said import SaidByVectors, SaidOfPairs


class TeacherSource:
    """Opens teachers for the rows of one split."""

    def __init__(self, labels: Artifact, live: LiveTeachers, rows: CorpusRows, device: str) -> None:
        self._labels, self._live, self._rows, self._device = labels, live, rows, device

    def of_images(self, one: Teaching) -> Says:
        """What a teacher says of image rows and image rows.

        Raises:
            StoreError: the label set lacks something, is of other images, or is damaged.
            ModelError: a live teacher cannot be loaded.
            CorpusError: a live teacher would look at pictures, and the corpus holds features.
        """
        if one.teacher in self._live.images:
            return self._live_images(one.teacher)
        if one.labels == "corpus":
            soft = corpus_soft_labels_of_images(self._labels, one.teacher, self._rows)
            return lambda own, every: SaidOfPairs.of(soft.matrix(own, every))
        take = ImageSimilarity(self._labels, one.teacher, self._rows).take
        return lambda own, every: SaidByVectors.of(take(own), take(every))

    def of_captions(self, one: Teaching, opened: Mapping[str, LabelSetRelevance]) -> Says:
        """What a teacher says of caption rows and caption rows.

        Args:
            opened: measures that are open already.
        Raises:
            StoreError, ModelError: as of images.
        """
        if one.teacher in self._live.captions:
            return self._live_captions(one.teacher)
        if one.labels == "corpus":
            soft = corpus_soft_labels_of_captions(self._labels, one.teacher, self._rows)
            return lambda own, every: SaidOfPairs.of(soft.matrix(own, every))
        measure = opened.get(one.teacher) or LabelSetRelevance(self._labels, one.teacher, self._rows.split)
        ids = self._rows.caption_ids
        if measure.is_dense:
            return lambda own, every: SaidByVectors.of(measure.take(ids[own]), measure.take(ids[every]))
        return lambda own, every: SaidOfPairs.of(measure.matrix(ids[own], ids[every]))

    def _live_images(self, name: str) -> Says:
        if not self._rows.has_images:
            raise CorpusError(
                f"train.live_teachers.images.{name} looks at pictures, and corpus {self._rows.corpus.version} was made "
                "from features. Use a teacher of the label set, of kind features."
            )
        settings, rows = self._live.images[name], self._rows
        teacher: Teacher = (
            Descriptors()
            if isinstance(settings, DescriptorTeacherSettings)
            else ImageTeacher(settings.model, revision=settings.revision, pooling=settings.pooling, device=self._device)
        )
        return _said_now(lambda asked: teacher.encode(rows.images(asked), [rows.image_ids[row] for row in asked]))

    def _live_captions(self, name: str) -> Says:
        settings = self._live.captions[name]
        teacher = TextTeacher(settings.model, revision=settings.revision, prompt=settings.prompt, device=self._device)
        return _said_now(lambda asked: teacher.encode(self._rows.captions(asked)))


def _said_now(encode: Callable[[Rows], NDArray[np.float16]]) -> Says:
    """By vectors that are made when they are asked for, each once."""

    def say(own: Rows, every: Rows) -> SaidByVectors:
        asked = np.unique(np.concatenate([own, every]))
        encoded = encode(asked)
        return SaidByVectors.of(encoded[np.searchsorted(asked, own)], encoded[np.searchsorted(asked, every)])

    return say
