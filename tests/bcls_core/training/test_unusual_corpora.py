"""Trainings on corpora with one, four, seven or unequal captions an image, and two images to validate on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bcls_core.config import TrainSettings, load_recipe
from bcls_core.store import Store
from bcls_core.training.history import read_history
from bcls_core.training.initial import BuildInitialStudent
from bcls_core.training.loop import TrainingJob, train
from bcls_core.workers import Workers
from flows import recipes
from tests.bcls_core.training.conftest import label
from tests.bcls_core.training.test_batches import DIM, Words

SETTINGS = (
    "train.epochs=2",
    f"train.student.image={{features: {DIM}}}",
    "train.student.text={max_tokens: 24, config: {model_type: bert, hidden_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2, intermediate_size: 32}}",
    "train.student.dim=8",
    "train.objective=[{loss: triplet, mining: soft}, {loss: kendall, relevance: cider, gap: p60}]",
)


@pytest.mark.parametrize(
    ("captions", "batch_size", "left_out"),
    [
        (lambda _: 1, 8, 0),
        (lambda _: 4, 8, 0),
        (lambda _: 7, 8, 0),
        (lambda number: 1 + 6 * (number == 3), 8, 7 - 3),  # 17 captions in 3 steps
        (lambda _: 7, 16, 11 * (7 - 5)),  # 77 captions in 5 steps of at most 11 images
        (lambda _: 1, 64, 0),
    ],
    ids=["one", "four", "seven", "unequal", "more than steps", "one small batch"],
)
def test_each_is_trained_as_far_as_it_can_be(
    tmp_path: Path, captions: Callable[[int], int], batch_size: int, left_out: int
) -> None:
    words = Words(tmp_path, {"train": 11, "val": 2, "test": 1}, captions)
    store = Store(tmp_path / "store")
    recipe = load_recipe(recipes.find("demo"), [*SETTINGS, f"train.batch_size={batch_size}", "label.neighbours=3"])
    labels = label(store, words.corpus, recipe.label)
    settings: TrainSettings = recipe.train
    draft = store.draft("training", "unusual")
    BuildInitialStudent(words.corpus, draft, settings)({"piece": "initial-student"})
    train(TrainingJob(words.corpus, labels, draft, settings), Workers(), lambda *_: None)
    history = read_history(draft.commit(fingerprint={}, schema="training/1"))
    assert len(history.epochs) == 3
    assert [epoch["train/left_out"] for epoch in history.epochs[1:]] == [left_out, left_out]
    assert all(0 <= epoch["val/rsum"] <= 600 for epoch in history.epochs)
