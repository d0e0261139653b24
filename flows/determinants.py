"""What determines each artefact, and so its version: inputs by digest, content settings, algorithm versions.

A model is named by a path or a hub name, which says where it is; what determines a result is its files' digest.
"""

from __future__ import annotations

from typing import Any

from bcls_core.config import (
    EmbeddingMeasureSettings,
    LabelSettings,
    PretrainedTower,
    TrainSettings,
    TwoTowerStudent,
    content_of,
)
from bcls_core.store import Artifact

TRAINING_ALGORITHM = 1
EVALUATION_ALGORITHM = 1
"""Raised by hand when the same inputs give other results."""


def of_training(settings: TrainSettings, corpus: Artifact, labels: Artifact) -> dict[str, Any]:
    """Determinants of a training of these settings on these artefacts."""
    return {
        "stage": "train",
        "algorithm": TRAINING_ALGORITHM,
        "settings": content_of(settings),
        "corpus": corpus.content_digest,
        "labels": labels.content_digest,
        "models": _tower_digests(settings),
    }


def of_labels(settings: LabelSettings, corpus: Artifact) -> dict[str, Any]:
    """Determinants of a label set of these settings on this corpus."""
    from bcls_core.similarity import ALGORITHM_VERSIONS

    models = {
        name: _digest(measure.model, measure.revision)
        for name, measure in settings.measures.items()
        if isinstance(measure, EmbeddingMeasureSettings)
    }
    return {
        "stage": "label",
        "algorithm": ALGORITHM_VERSIONS,
        "settings": content_of(settings),
        "corpus": corpus.content_digest,
        "models": models,
    }


def of_evaluation(training: Artifact, split: str) -> dict[str, Any]:
    """Determinants of the metrics of a training on a split."""
    return {
        "stage": "evaluate",
        "algorithm": EVALUATION_ALGORITHM,
        "training": training.content_digest,
        "split": split,
    }


def _tower_digests(settings: TrainSettings) -> dict[str, Any]:
    student = settings.student
    if not isinstance(student, TwoTowerStudent):
        return {}
    towers = {"image": student.image, "text": student.text}
    return {
        side: _digest(tower.model, tower.revision)
        for side, tower in towers.items()
        if isinstance(tower, PretrainedTower)
    }


def _digest(model: str, revision: str | None) -> dict[str, str]:
    from bcls_core.teachers.resolve import fetch_model, model_digest

    return model_digest(fetch_model(model, revision))
