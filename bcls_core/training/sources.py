"""What a worker opens before its first step: rows and labels of both splits, teachers, and the objective they serve."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bcls_core.config import AugmentSettings, ObjectiveTerm, Split
from bcls_core.config.objective import BinaryTerm
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

_SAMPLE = 64  # images whose labels are looked at before the first step
_SUSPICIOUS = 0.5  # share of pairs that are no negatives, from which on people are told

_LOG = logging.getLogger(__name__)


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
            scores within a side are asked for and the student has no vectors there, or labels leave a loss no
            negatives.
        StoreError: the label set lacks something, is of another corpus, or a file is missing or damaged.
        ModelError: a live teacher cannot be loaded.
    """
    inputs, labels = _inputs(job, student, "train"), job.labels
    objective = _objective(job, student, inputs, device)
    rows = inputs.rows
    opened = {name: LabelSetRelevance(labels, name, "train") for name in sorted(objective.measures)}
    _require_negatives(job.settings.objective, opened, rows)
    teachers = TeacherSource(labels, job.settings.live_teachers, rows, job.device)
    train = BatchSource(
        inputs,
        opened,
        {one: teachers.of_images(one) for one in sorted(objective.image_teachers)},
        {one: teachers.of_captions(one, opened) for one in sorted(objective.caption_teachers)},
    )
    judged = {name: LabelSetRelevance(labels, name, "val") for name in measures_of(labels)}
    return Sources(objective, train, BatchSource(_inputs(job, student, "val"), judged))


def _require_negatives(
    terms: Sequence[ObjectiveTerm], relevances: Mapping[str, LabelSetRelevance], rows: CorpusRows
) -> None:
    """Labels of a sample of images and captions of other images: a threshold below all of them leaves no negatives."""
    images = np.unique(np.linspace(0, rows.image_count - 1, _SAMPLE).astype(np.int64))
    captions = [rows.caption_ids[rows.captions_of(row)] for row in images]
    other = ~np.eye(len(images), dtype=np.bool_)
    for place, term in enumerate(terms):
        if not isinstance(term, BinaryTerm) or term.related is None or len(images) < 2:
            continue
        related = term.related
        labels = relevances[related.relevance].rows(captions, np.array([own[0] for own in captions]))[other]
        share = float((labels > related.above).mean())
        of_these = f"labels {related.relevance} of {len(labels)} pairs of an image and a caption of another"
        if share == 1.0:
            raise ConfigError(
                f"train.objective[{place}].related.above: all {of_these} are above {related.above:g}, from "
                f"{labels.min():.3g} on, so {term.loss} would have hardly a negative. Raise it, towards 1."
            )
        if share > _SUSPICIOUS:
            _LOG.warning(
                "train.objective[%d].related: %.0f %% of the %s are above %g, and no negatives of %s. Their median is "
                "%.3g.",
                place,
                100 * share,
                of_these,
                related.above,
                term.loss,
                np.median(labels),
            )


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
