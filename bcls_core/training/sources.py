"""What a worker opens before its first step: rows and labels of both splits, teachers, and the objective they serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bcls_core.config import AugmentSettings, Split
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import ConfigError
from bcls_core.similarity import LabelSetRelevance, load_gaps, measures_of
from bcls_core.students import Student
from bcls_core.training.augment import Augmentation
from bcls_core.training.batches import BatchSource, Inputs, InputSource
from bcls_core.training.frozen import load_frozen
from bcls_core.training.heads import encoding_dims
from bcls_core.training.objective import Objective, sides_within, taught
from bcls_core.training.teaching import TeacherSource

if TYPE_CHECKING:
    from bcls_core.training.loop import TrainingJob


@dataclass(frozen=True)
class Sources:
    """What is trained on, what is validated on, and what is optimised."""

    objective: Objective
    train: BatchSource
    val: BatchSource


def open_sources(job: TrainingJob, student: Student, device: torch.device) -> Sources:
    """Opens all that a training reads.

    Args:
        student: whole, on the device.
    Raises:
        ConfigError: the student's image side starts at features and pictures are to be varied, a teacher is not there,
            or scores within a side are asked for and the student has no vectors there.
        StoreError: the label set lacks something, is of another corpus, or a file is missing or damaged.
        ModelError: a live teacher cannot be loaded.
    """
    inputs, labels = _inputs(job, student, "train"), job.labels
    objective = _objective(job, student, inputs, device)
    rows = inputs.rows
    opened = {name: LabelSetRelevance(labels, name, "train") for name in sorted(objective.measures)}
    teachers = TeacherSource(labels, job.settings.live_teachers, rows, job.device)
    train = BatchSource(
        inputs,
        opened,
        {one: teachers.of_images(one) for one in sorted(objective.image_teachers)},
        {one: teachers.of_captions(one, opened) for one in sorted(objective.caption_teachers)},
    )
    judged = {name: LabelSetRelevance(labels, name, "val") for name in measures_of(labels)}
    return Sources(objective, train, BatchSource(_inputs(job, student, "val"), judged))


def _inputs(job: TrainingJob, student: Student, split: Split) -> InputSource:
    rows, settings = CorpusRows(job.corpus, split), job.settings
    augment = Augmentation(settings.augment, settings.seed) if settings.augment != AugmentSettings() else None
    frozen = load_frozen(job.draft, student, rows)
    if augment is not None and (frozen.images is not None or not rows.has_images):
        raise ConfigError("train.augment: this student's image side starts at features. Leave it out.")
    varied = augment if split == "train" else None
    return InputSource(rows, student.preprocessor, frozen, varied)


def _objective(job: TrainingJob, student: Student, inputs: InputSource, device: torch.device) -> Objective:
    terms, labels = job.settings.objective, job.labels
    dims = _dims(student, inputs, sides_within(terms), device)
    return Objective(terms, load_gaps(labels), taught(job.settings, labels), dims, job.settings.seed).to(device)


@torch.no_grad()
def _dims(student: Student, inputs: InputSource, sides: list[str], device: torch.device) -> dict[str, int]:
    """How long the encodings of some sides are: those of the first row tell."""
    first, found = np.zeros(1, np.int64), {}
    student.eval()
    if "image-image" in sides:
        found["image-image"] = student.encode_images(_on(device, inputs.images(first)))
    if "caption-caption" in sides:
        found["caption-caption"] = student.encode_captions(_on(device, inputs.captions(first)))
    return encoding_dims(found)


def _on(device: torch.device, inputs: Inputs) -> Inputs:
    return {name: tensor.to(device) for name, tensor in inputs.items()}
