"""From a file of features to answers: every flow on a corpus without pictures, judged by ratings, groups and itself."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bcls_core.config import DemoIngest, load_recipe
from bcls_core.data.ingest import determinants_of, plan_ingest
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import ConfigError
from bcls_core.store import Store, fingerprint
from bcls_core.students import load_student
from bcls_core.training.history import MODEL
from flows.context import Context
from flows.train import train

WORDS = ["boat", "tree", "dog", "house", "river", "lamp", "horse", "cloud", "chair", "bridge", "apple", "stone"]
COUNTS = {"train": 40, "val": 12, "test": 12}
RECIPE = """
name: words
ingest: {{source: karpathy, annotations: {folder}/annotations.json, features: {folder}/features.npz}}
label:
  measures: {{cider: {{kind: cider}}}}
  neighbours: 8
  gap_pairs: 2000
train:
  student:
    kind: two-tower
    image: {{features: 12}}
    text:
      config: {{model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32,
        hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}}
    dim: 16
  objective:
    - {{loss: triplet, mining: soft, tau: 0.1}}
    - {{loss: kendall, relevance: cider, gap: p60}}
  batch_size: 32
  epochs: 2
  learning_rate: 2.0e-3
runtime: {{shard_images: 16}}
"""
LOST = "test-03.jpg"
"""The test image whose second caption is empty: no `FILE#n` of it can be trusted."""


class Dataset:
    """Images that are a few words, features that count them with noise, captions that say some of them.

    Attributes:
        words: of each image id.
        captions: caption ids of each image id, with that of the empty caption.
    """

    def __init__(self, folder: Path) -> None:
        generator = np.random.default_rng(0)
        names = [f"{split}-{number:02d}.jpg" for split, count in COUNTS.items() for number in range(count)]
        self.folder = folder
        self.words = {name: set(generator.choice(WORDS, 4, replace=False).tolist()) for name in names}
        self.captions: dict[str, list[int]] = {}
        ids, images = iter(range(1000, 2000)), []
        for name in names:
            texts = [
                " ".join(generator.permutation(sorted(self.words[name]))[: generator.integers(2, 5)])
                for _ in range(3 if name == LOST else generator.integers(1, 6))
            ]
            if name == LOST:
                texts[1] = " "
            self.captions[name] = [next(ids) for _ in texts]
            sentences = [{"raw": t, "sentid": i} for t, i in zip(texts, self.captions[name], strict=True)]
            images.append({"filename": name, "split": name.split("-")[0], "sentences": sentences})
        counts = np.array([[float(word in self.words[name]) for word in WORDS] for name in names])
        features = (counts + 0.1 * generator.normal(size=counts.shape)).astype(np.float32)
        np.savez(folder / "features.npz", image_id=np.array(names), features=features)
        (folder / "annotations.json").write_text(json.dumps({"images": images}))
        (folder / "words.yaml").write_text(RECIPE.format(folder=folder))
        self.test_images = [name for name in names if name.startswith("test")]

    def write(self, name: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
        path = self.folder / name
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return str(path)

    def ratings(self) -> list[tuple[str, int, int]]:
        """Of every test image with the first caption of every test image: how many words they share."""
        return [
            (image, self.captions[other][0], len(self.words[image] & self.words[other]))
            for image in self.test_images
            for other in self.test_images
        ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def trained(dataset: Dataset, make_bcls: Callable[..., Any]) -> tuple[Any, str]:
    """Commands against a root that holds the corpus, its labels and a training, and the training's version."""
    bcls = make_bcls(dataset.folder / "root", dataset.folder, None)
    corpus = bcls.json("ingest", "-c", "words.yaml", "--local")
    assert corpus["state"] == "new"
    bcls.json("label", "-c", "words.yaml", "--local")
    return bcls, bcls.json("train", "-c", "words.yaml", "--local")["version"]


class Encoded:
    """What the trained student makes of the test split."""

    def __init__(self, bcls: Any) -> None:
        store = Store(str(bcls.root))
        self.rows = CorpusRows(store.current("corpus"), "test")
        self.student = load_student(store.current("training").local(MODEL))
        count = self.rows.image_count
        with torch.no_grad():
            features = torch.from_numpy(self.rows.features(np.arange(count)).astype(np.float32))
            self.images = self.student.encode_images({"features": features}).numpy()
            self.captions = self.text(*self.rows.captions(np.arange(self.rows.caption_count)))

    @torch.no_grad()
    def text(self, *texts: str) -> np.ndarray:
        return self.student.encode_captions(self.student.prepare_captions(texts)).numpy()


@pytest.fixture(scope="module")
def encoded(trained: tuple[Any, str]) -> Encoded:
    return Encoded(trained[0])


def leave_one_out(encodings: np.ndarray, groups: list[Any]) -> float:
    """Percent of rows with company in their group whose nearest other row is of it."""
    asked = [row for row in range(len(groups)) if groups.count(groups[row]) > 1]
    cosines = encodings @ encodings.T
    np.fill_diagonal(cosines, -np.inf)
    return 100 * float(np.mean([groups[int(cosines[row].argmax())] == groups[row] for row in asked]))


def test_an_evaluation_by_people_and_by_groups(dataset: Dataset, trained: tuple[Any, str], encoded: Encoded) -> None:
    bcls, version = trained
    groups = {name: "odd" if int(name[5:7]) % 2 else "even" for name in dataset.test_images}
    foreign = [("test-00.jpg", 999_999, 1), ("elsewhere.jpg", dataset.captions["test-00.jpg"][0], 2)]
    by_id = dataset.write("judged.csv", ("image_id", "caption_id", "rating"), [*dataset.ratings(), *foreign])
    by_place = dataset.write(
        "placed.csv",
        ("image_id", "caption_id", "rating"),
        [("test-00.jpg", f"{name}#0", place) for place, name in enumerate(dataset.test_images)],
    )
    of_images = dataset.write("groups.csv", ("image_id", "group"), list(groups.items()))
    command = ["evaluate", "--model", version, "--local", "--ratings", by_id, "--ratings", by_place]
    command += ["--image-groups", of_images]
    result = bcls.json(*command)
    metrics = result["metrics"]

    rows = encoded.rows
    assert (metrics["images"], metrics["captions"]) == (12, rows.caption_count)
    images = {name: row for row, name in enumerate(rows.image_ids)}
    captions = {key: row for row, key in enumerate(rows.caption_ids.tolist())}
    scores = (encoded.images @ encoded.captions.T).astype(np.float64)
    other = [(i, c, r) for i, c, r in dataset.ratings() if c not in dataset.captions[i]]
    assert (metrics["human/judged/pairs"], metrics["human/judged/excluded"]) == (132, 12)
    expected = spearmanr([scores[images[i], captions[c]] for i, c, _ in other], [r for _, _, r in other]).statistic
    assert metrics["human/judged/spearman"] == pytest.approx(expected, abs=1e-3)
    # Eleven other images, less the one that lost a caption.
    assert (metrics["human/placed/pairs"], metrics["human/placed/excluded"]) == (10, 1)

    assert metrics["i2i/r1"] == pytest.approx(leave_one_out(encoded.images, [groups[n] for n in rows.image_ids]))
    assert metrics["c2c/r1"] == pytest.approx(leave_one_out(encoded.captions, rows.caption_image.tolist()))
    alone = sum(np.bincount(rows.caption_image) == 1)
    assert metrics["c2c/excluded"] == alone
    best = scores.argmax(axis=0)
    assert metrics["t2i/r1"] == pytest.approx(100 * float(np.mean(best == rows.caption_image)))

    for name in ("human/judged/spearman", "i2i/r1", "c2c/r1", "rsum", "label/cider/t2i/kendall"):
        low, high = result["intervals"][name]
        assert low <= metrics[name] <= high
        assert low < high
    assert set(result["intervals"]) <= set(metrics)

    again = bcls.run(*command)
    assert "(already there)" in again
    assert "human ratings" in again
    for name in ("i2i", "c2c"):
        low, high = result["intervals"][f"{name}/r1"]
        assert f"{metrics[f'{name}/r1']:.1f} [{low:.1f}, {high:.1f}]" in again


def test_ratings_of_another_dataset_are_refused(dataset: Dataset, trained: tuple[Any, str]) -> None:
    bcls, version = trained
    rows = [("COCO_1.jpg", 70_001, 3), ("COCO_2.jpg", 70_002, 1)]
    path = dataset.write("foreign.csv", ("image_id", "caption_id", "rating"), rows)
    said = refused(bcls, "evaluate", "--model", version, "--local", "--ratings", path)
    assert "none of 2 is of an image and a caption of this split" in said
    assert "'COCO_1.jpg' with caption '70001'" in said
    assert f"'test-00.jpg' and caption id {dataset.captions['test-00.jpg'][0]}" in said


@pytest.mark.parametrize("to", ["images", "captions"])
def test_search_finds_by_text(trained: tuple[Any, str], encoded: Encoded, to: str, tmp_path: Path) -> None:
    bcls, version = trained
    page = tmp_path / "page.html"
    found = bcls.json(
        "search", "--model", version, "--text", "boat tree dog", "--to", to, "--top", "4", "--html", str(page)
    )
    gallery = encoded.images if to == "images" else encoded.captions
    expected = np.sort(gallery @ encoded.text("boat tree dog")[0])[::-1][:4]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert {hit["image_id"] for hit in found["hits"]} <= set(encoded.rows.image_ids)
    assert page.read_text().count("<li>") == 4
    assert "<img" not in page.read_text()


def test_a_picture_is_no_query_of_a_student_that_takes_features(trained: tuple[Any, str], tmp_path: Path) -> None:
    from PIL import Image

    bcls, version = trained
    Image.new("RGB", (8, 8)).save(tmp_path / "query.png")
    said = refused(bcls, "search", "--model", version, "--image", str(tmp_path / "query.png"))
    assert "takes image features, found 1 pictures" in said


def test_a_tower_cannot_read_features(trained: tuple[Any, str]) -> None:
    bcls, _ = trained
    tower = "train.student.image={size: 32, config: {model_type: convnext, num_stages: 1, hidden_sizes: [8]}}"
    said = refused(bcls, "train", "-c", "words.yaml", "--local", settings=(tower,))
    assert "train.student.image: is a tower, but corpus" in said
    assert "was made from features. Set image: {features: LENGTH}" in said


def test_a_student_of_features_cannot_read_pictures(dataset: Dataset, trained: tuple[Any, str], tmp_path: Path) -> None:
    scenes = DemoIngest(source="demo", train=2, val=1, test=1, size=32)
    determined = determinants_of(scenes, {})
    draft = Store(tmp_path).draft("corpus", fingerprint(determined)[:16])
    plan = plan_ingest(scenes, 4, draft, lambda *_: [])
    worker = plan.worker(**plan.arguments)
    statistics = plan.finish([worker(piece) for piece in plan.pieces], {})
    pictures = draft.commit(fingerprint=determined, schema="corpus/1", statistics=statistics)
    recipe = load_recipe(dataset.folder / "words.yaml")
    labels = Store(str(trained[0].root)).current("labels")
    with pytest.raises(ConfigError) as caught:
        train(Context("words", recipe.runtime, str(tmp_path)), recipe, pictures, labels)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"train.student.image: takes features, but corpus {pictures.version} was made from pictures. "
        "Name a tower, or ingest the other way."
    )


def refused(bcls: Any, *arguments: str, settings: tuple[str, ...] = ()) -> str:
    """Runs a command that must end with 2 and without a traceback; what it says, in one line."""
    process = bcls.start(*arguments, settings=settings)
    _, errors = process.communicate()
    assert process.returncode == 2, errors[-3000:]
    assert "Traceback" not in errors
    return " ".join(errors.split())
