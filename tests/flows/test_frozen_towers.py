"""Frozen towers see a corpus once: what trainings share, and that sharing changes nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from bcls_core.config import EvaluateSettings, Recipe, load_recipe, load_runtime
from bcls_core.store import Artifact
from bcls_core.students import load_student
from bcls_core.training import encode_frozen
from bcls_core.training.evaluate import evaluate as judge
from bcls_core.training.history import MODEL
from flows import recipes
from flows.context import Context
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.label import label
from flows.train import train
from tests.bcls_core.teachers.test_image import build

SETTINGS = (
    "ingest.train=40", "ingest.val=12", "ingest.test=12", "ingest.size=32", "label.gap_pairs=2000",
    "runtime.shard_images=16", "train.epochs=1", "train.batch_size=16", "train.student.dim=8",
    "train.student.text={gru: 8, words: 8}",
)  # fmt: skip
SHARDS = 4  # that hold images to train or validate on


@pytest.fixture(autouse=True)
def no_mlflow_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each shard had that a frozen tower looked at."""
    counts: list[int] = []
    original = encode_frozen.FrozenEncoder._images

    def counting(self: Any, rows: Any, numbers: Any) -> Any:
        counts.append(len(numbers))
        return original(self, rows, numbers)

    monkeypatch.setattr(encode_frozen.FrozenEncoder, "_images", counting)
    return counts


Train = Callable[..., Artifact]


@pytest.fixture
def trained(tmp_path: Path) -> Train:
    """Trains the demo's recipe with a frozen transformer, from a folder of weights, under a root."""
    build(tmp_path / "vit", "vit")

    def one(*settings: str, root: str = "root", tower: str = "vit") -> Artifact:
        image = f"train.student.image={{model: {tmp_path / tower}}}"
        recipe: Recipe = load_recipe(recipes.find("demo"), [*SETTINGS, image, *settings])
        runtime = recipe.runtime.model_copy(update={"backend": "local"})
        context = Context("demo", runtime, str(tmp_path / root))
        corpus = ingest(context, recipe).artifact
        labels = label(context, recipe, corpus).artifact
        return train(context, recipe, corpus, labels).artifact

    return one


def test_the_next_training_of_a_frozen_tower_sees_no_picture(trained: Train, encoded: list[int]) -> None:
    trained()
    assert len(encoded) == SHARDS
    assert sum(encoded) == 52
    shared = trained("train.seed=7", "train.objective=[{loss: info-nce}]")
    assert len(encoded) == SHARDS
    alone = trained("train.seed=7", "train.objective=[{loss: info-nce}]", root="another")
    assert len(encoded) == 2 * SHARDS
    assert shared.content_digest == alone.content_digest


def test_an_evaluation_sees_pictures_once_too(trained: Train, encoded: list[int], tmp_path: Path) -> None:
    first, second = trained(), trained("train.seed=7")
    del encoded[:]
    context = Context("evaluate", load_runtime(["runtime.backend=local"]), str(tmp_path / "root"))
    metrics = [evaluate(context, training, EvaluateSettings()).metrics for training in (first, second)]
    assert encoded == [12]
    for training, found in zip((first, second), metrics, strict=True):
        corpus, labels = (context.store.resolve(kind, training.manifest.parents[kind]) for kind in ("corpus", "labels"))
        plain = judge(load_student(training.local(MODEL)), corpus, labels, "test").metrics()
        assert {name: found[name] for name in plain} == pytest.approx(plain, abs=1e-3)
    assert encoded == [12]


def test_what_determines_features_decides_who_shares_them(trained: Train, encoded: list[int], tmp_path: Path) -> None:
    trained()
    for number, change in enumerate(("ingest.seed=9", "train.student.image.pooling=mean"), 2):
        trained(change)
        assert len(encoded) == number * SHARDS, change
    weights = load_file(tmp_path / "vit" / "model.safetensors")
    (tmp_path / "vit").rename(tmp_path / "elsewhere")
    trained("train.seed=8", tower="elsewhere")
    assert len(encoded) == 3 * SHARDS
    weights["embeddings.cls_token"] += 0.1
    save_file(weights, tmp_path / "elsewhere" / "model.safetensors", metadata={"format": "pt"})
    trained("train.seed=8", tower="elsewhere")
    assert len(encoded) == 4 * SHARDS


def test_features_outlive_a_corpus_that_is_cut_another_way(trained: Train, tmp_path: Path) -> None:
    alone = trained("train.seed=7")
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "root" / "embeddings", tmp_path / "other" / "embeddings")
    for images in (12, 20):
        again = trained("train.seed=7", f"runtime.shard_images={images}", root="other")
        assert again.content_digest == alone.content_digest
        for kind in ("corpus", "labels", "training"):
            shutil.rmtree(tmp_path / "other" / kind)


def test_features_that_cannot_be_kept_are_used_all_the_same(
    trained: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = trained()
    (tmp_path / "full" / "embeddings").mkdir(parents=True)
    towers = next(path.name for path in (tmp_path / "root" / "embeddings").iterdir() if [*path.glob("images-*")])
    (tmp_path / "full" / "embeddings" / towers).write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert trained(root="full").content_digest == expected.content_digest
    assert "cannot be kept for later trainings" in caplog.text


def test_damaged_features_are_made_again(
    trained: Train, encoded: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = trained()
    kept = sorted((tmp_path / "root" / "embeddings").rglob("images-*.npy"))
    assert len(kept) == SHARDS
    data = bytearray(kept[1].read_bytes())
    data[-40] ^= 1  # in the last row, in front of the checksum
    kept[1].write_bytes(data)
    kept[2].write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        trained("train.seed=7")
    assert len(encoded) == SHARDS + 2
    assert sum("is damaged: its rows are encoded again" in record.message for record in caplog.records) == 2
    assert trained("train.seed=7", root="another").content_digest != first.content_digest
    trained("train.seed=8")
    assert len(encoded) == 2 * SHARDS + 2  # those of the other root; what was damaged is whole again
