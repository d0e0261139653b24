"""The student before its first step: the same weights for every worker, attempt and backend."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bcls_core.config import TrainSettings
from bcls_core.store import Artifact, Draft
from bcls_core.students import Student, build_student, load_student, save_student

_FOLDER = "initial"


class BuildInitialStudent:
    """Piece worker: builds the student, tokenizer from the training captions included, and saves it in the draft."""

    def __init__(self, corpus: Artifact, draft: Draft, settings: TrainSettings) -> None:
        self._corpus = corpus
        self._draft = draft
        self._settings = settings

    def __call__(self, piece: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - there is one piece
        student = initial_student(self._settings, self._corpus)
        with tempfile.TemporaryDirectory() as folder:
            save_student(student, Path(folder))
            self._draft.scratch.add_tree(_FOLDER, Path(folder))
        trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
        return {
            "parameters": sum(p.numel() for p in student.parameters()),
            "trained_parameters": trained,
            "image_tower_frozen": student.image_tower_frozen,
            "caption_tower_frozen": student.caption_tower_frozen,
        }


def initial_student(settings: TrainSettings, corpus: Artifact) -> Student:
    """The untrained student of a recipe, seeded by `settings.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return build_student(settings.student, training_captions(corpus))


def training_captions(corpus: Artifact) -> Iterator[str]:
    """Captions of the train split, shard by shard."""
    for table in corpus.scan("captions", columns=["split", "caption"]):
        for split, caption in zip(table["split"].to_pylist(), table["caption"].to_pylist(), strict=True):
            if split == "train":
                yield caption


def load_initial(draft: Draft) -> Student:
    """The student that `BuildInitialStudent` saved."""
    with tempfile.TemporaryDirectory() as folder:
        draft.scratch.copy_tree(_FOLDER, Path(folder))
        return load_student(Path(folder))
