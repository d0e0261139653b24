"""What determines each artefact, and so its version: inputs by digest, content settings, algorithm versions.

A model is named by a path or a hub name, which says where it is; what determines a result is its files' digest.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bcls_core.config import (
    ClipStudent,
    CustomStudent,
    EmbeddingMeasureSettings,
    GruTextTower,
    IvfSearch,
    LabelSettings,
    PretrainedTower,
    TrainSettings,
    TwoTowerStudent,
    content_of,
)
from bcls_core.config.train import LiveTeachers
from bcls_core.errors import ModelError
from bcls_core.store import Artifact

TRAINING_ALGORITHM = 5
GRU_ALGORITHM = 3
FROZEN_ALGORITHM = 1
EVALUATION_ALGORITHM = 3
"""Raised by hand when the same inputs give other results."""

_STAGE_OF_MEASURE = {"embedding": "text-teacher", "cider": "cider", "cider-d": "cider-d"}
_STAGE_OF_TEACHER = {"vision": "image-teacher", "descriptors": "descriptors", "features": "imported-features"}


def of_training(settings: TrainSettings, corpus: Artifact, labels: Artifact) -> dict[str, Any]:
    """Determinants of a training of these settings on these artefacts."""
    return {
        "stage": "train",
        "algorithm": TRAINING_ALGORITHM,
        "settings": content_of(settings),
        "corpus": corpus.content_digest,
        "labels": labels.content_digest,
        "models": _tower_digests(settings),
        **({"gru": GRU_ALGORITHM} if _reads_with_a_gru(settings) else {}),
    } | ({"live teachers": live} if (live := _live_teachers(settings.live_teachers)) else {})


def of_frozen_features(training: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Determinants of what the frozen towers of a training's student make of pictures and captions on a kind of device.

    Args:
        training: determinants of the training.
    Returns:
        Nothing if no tower is known to be frozen: a student of the user's own may do as it likes.
    """
    student, models = training["settings"]["student"], training.get("models", {})
    towers = {
        side: {"settings": student[side], "model": models[side]}
        for side in ("image", "text")
        if side in models and not student[side].get("trained", True)
    }
    if not towers:
        return {}
    return {
        "stage": "frozen towers",
        "algorithm": FROZEN_ALGORITHM,
        "towers": towers,
        "device": device.partition(":")[0],
    }


def of_labels(settings: LabelSettings, corpus: Artifact, frequencies: Artifact | None) -> dict[str, Any]:
    """Determinants of a label set of these settings on this corpus.

    Args:
        frequencies: the label set whose document frequencies are used, if any.
    """
    from bcls_core.similarity import ALGORITHM_VERSIONS
    from bcls_core.similarity.image_labels import image_fingerprint
    from bcls_core.similarity.labels import FREQUENCIES

    models = {
        name: _digest(measure.model, measure.revision)
        for name, measure in settings.measures.items()
        if isinstance(measure, EmbeddingMeasureSettings)
    }
    images = {name: image_fingerprint(teacher) for name, teacher in settings.image_teachers.items()}
    at_work = {"gaps", "neighbours"} | {_STAGE_OF_MEASURE[measure.kind] for measure in settings.measures.values()}
    at_work |= {_STAGE_OF_TEACHER[teacher.kind] for teacher in settings.image_teachers.values()}
    at_work |= {"ivf"} if isinstance(settings.search, IvfSearch) else set()
    at_work |= {"soft-labels"} if settings.soft_labels is not None else set()
    return (
        {
            "stage": "label",
            "algorithm": {stage: version for stage, version in ALGORITHM_VERSIONS.items() if stage in at_work},
            "settings": content_of(settings),
            "corpus": corpus.content_digest,
            "models": models,
        }
        | ({"image models": images} if images else {})
        | ({} if frequencies is None else {"frequencies": frequencies.manifest.tables[FREQUENCIES].digest})
    )


def of_evaluation(training: Artifact, split: str, references: Mapping[str, str]) -> dict[str, Any]:
    """Determinants of the metrics of a training on a split, judged by references of these digests."""
    return {
        "stage": "evaluate",
        "algorithm": EVALUATION_ALGORITHM,
        "training": training.content_digest,
        "split": split,
        "references": dict(references),
    }


def _live_teachers(settings: LiveTeachers) -> dict[str, Any]:
    from bcls_core.similarity.image_labels import image_fingerprint
    from bcls_core.teachers.text import teacher_fingerprint

    return {f"images/{name}": image_fingerprint(teacher) for name, teacher in settings.images.items()} | {
        f"captions/{name}": teacher_fingerprint(one.model, revision=one.revision, prompt=one.prompt)
        for name, one in settings.captions.items()
    }


def _reads_with_a_gru(settings: TrainSettings) -> bool:
    return isinstance(settings.student, TwoTowerStudent) and isinstance(settings.student.text, GruTextTower)


def _tower_digests(settings: TrainSettings) -> dict[str, Any]:
    student = settings.student
    if isinstance(student, CustomStudent):
        return {"source": source_digest(student.target)}
    if isinstance(student, ClipStudent):
        return {} if student.model is None else {"both": _digest(student.model, student.revision)}
    towers = {"image": student.image, "text": student.text}
    return {
        side: _digest(tower.model, tower.revision)
        for side, tower in towers.items()
        if isinstance(tower, PretrainedTower)
    }


def source_digest(target: str) -> str:
    """sha256 of the file that holds a custom student, and of the files of its package that it inherits from: another
    file is another student.

    Raises:
        ModelError: there is no such module, or no student in it.
    """
    from bcls_core.students.factory import custom_class

    module = target.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise ModelError(
            f"student target {target!r}: no module {module!r} can be found.\n"
            "  Put the file's folder on PYTHONPATH (for a Ray job, into its working directory) or install its package."
        )
    package = module.partition(".")[0]
    sources = {
        inspect.getsourcefile(one)
        for one in custom_class(target).__mro__
        if one.__module__.partition(".")[0] == package
    }
    files = [found.origin, *sorted(file for file in sources - {found.origin} if file is not None)]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _digest(model: str, revision: str | None) -> dict[str, str]:
    from bcls_core.teachers.resolve import fetch_model, model_digest

    return model_digest(fetch_model(model, revision))
