"""A split as the gallery of an evaluation: scores of a student and labels of a measure, a strip at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.data.rows import CorpusRows
from bcls_core.metrics.arrays import require_no_nan
from bcls_core.metrics.strips import Products, Strip, Strips
from bcls_core.similarity import LabelSetRelevance
from bcls_core.students import Student

Rows = NDArray[np.int64]


def scores_of(student: Student, images: Tensor, captions: Tensor) -> Strips:
    """Scores of encodings: products where the student's score is one, whatever the student makes of them elsewhere.

    Args:
        images, captions: (images, …) and (captions, …) encodings.
    """
    if type(student).score is Student.score:
        return Products(images.float(), captions.float())
    return StudentScores(student, images, captions)


class StudentScores:
    """Scores of a student with a score of its own, computed for the rows or columns asked for."""

    def __init__(self, student: Student, images: Tensor, captions: Tensor) -> None:
        self.images, self.captions = len(images), len(captions)
        self._student = student
        self._encodings = images, captions

    def image_rows(self, start: int, stop: int) -> Strip:
        images, captions = self._encodings
        return self._score(images[start:stop], captions, start).numpy()

    def caption_rows(self, start: int, stop: int) -> Strip:
        images, captions = self._encodings
        return self._score(images, captions[start:stop], 0).T.contiguous().numpy()

    @torch.no_grad()
    def _score(self, images: Tensor, captions: Tensor, first_image: int) -> Tensor:
        scores = self._student.score(images, captions).float().cpu()
        require_no_nan("scores", scores, first_image)
        return scores


class LabelStrips:
    """Labels of one measure for all images and captions of a split."""

    def __init__(self, rows: CorpusRows, relevance: LabelSetRelevance) -> None:
        self.images, self.captions = rows.image_count, rows.caption_count
        self._ids = rows.caption_ids
        self._own = [rows.caption_ids[rows.captions_of(row)] for row in range(rows.image_count)]
        self._relevance = relevance

    def image_rows(self, start: int, stop: int) -> Strip:
        return self._relevance.rows(self._own[start:stop], self._ids)

    def caption_rows(self, start: int, stop: int) -> Strip:
        return np.ascontiguousarray(self._relevance.rows(self._own, self._ids[start:stop]).T)


def pair_scores(scores: Strips, image_rows: Rows, caption_rows: Rows) -> NDArray[np.float64]:
    """(pairs,) scores of single pairs, float64."""
    if isinstance(scores, Products):
        return scores.pairs(image_rows, caption_rows).astype(np.float64)
    found = np.empty(len(image_rows))
    for row in np.unique(image_rows):
        asked = image_rows == row
        found[asked] = scores.image_rows(int(row), int(row) + 1)[0, caption_rows[asked]]
    return found
