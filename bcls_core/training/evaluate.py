"""A finished student on a split: retrieval, agreement with the labels, and with the truth where a corpus has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bcls_core.config import Split
from bcls_core.data.rows import CorpusRows
from bcls_core.data.truth import true_relevance
from bcls_core.metrics import rank_correlation
from bcls_core.similarity import LabelSetRelevance, measures_of
from bcls_core.store import Artifact
from bcls_core.students import Student, load_student
from bcls_core.training.batches import BatchSource
from bcls_core.training.frozen import FrozenFeatures
from bcls_core.training.history import MODEL
from bcls_core.training.validate import defined, encode_split, retrieval_and_agreement
from bcls_core.workers import Workers


class EvaluateTraining:
    """Piece worker: all metrics of one training's model on one split."""

    def __init__(self, corpus: Artifact, labels: Artifact, training: Artifact, device: str) -> None:
        self._corpus = corpus
        self._labels = labels
        self._student = load_student(training.local(MODEL)).to(device).eval()
        self._device = torch.device(device)

    def __call__(self, piece: dict[str, Any]) -> dict[str, float]:
        return evaluate(self._student, self._corpus, self._labels, piece["split"], self._device)


def evaluate(
    student: Student, corpus: Artifact, labels: Artifact, split: Split, device: torch.device | None = None
) -> dict[str, float]:
    """Metrics of a student on a split.

    Returns:
        `i2t/r1`, …, `rsum`; `label/MEASURE/t2i/kendall`, … for each measure of the label set; where the corpus carries
        the truth `true/t2i/kendall`, …; `images`, `captions`, and `chance/t2i/r10` (percent).
    """
    rows = CorpusRows(corpus, split)
    relevances = {name: LabelSetRelevance(labels, name, split) for name in measures_of(labels)}
    source = BatchSource(rows, student.preprocessor, relevances, FrozenFeatures())
    images, captions = encode_split(student, source, Workers(), device or torch.device("cpu"))
    metrics = retrieval_and_agreement(student, images, captions, source)
    truth = true_relevance(corpus, rows.image_ids)
    if truth is not None:
        with torch.no_grad():
            scores = student.score(images, captions).float().cpu()
        columns = truth[:, np.asarray(rows.caption_image)]
        metrics |= defined({f"true/{name}": value for name, value in rank_correlation(scores, columns).items()})
    chance = 100.0 * min(10, rows.image_count) / rows.image_count
    return metrics | {"images": rows.image_count, "captions": rows.caption_count, "chance/t2i/r10": chance}
