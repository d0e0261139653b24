from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcls_core.data.ratings import CaptionPairs, Ratings
from bcls_core.data.rows import CorpusRows
from bcls_core.data.truth import true_relevance
from bcls_core.errors import InputError
from bcls_core.metrics import (
    CocoGroundTruth,
    caption_similarity,
    caption_to_caption,
    coco_queries,
    coherence,
    human_relevance,
    image_to_image,
    rank_correlation,
    retrieval,
)
from bcls_core.metrics.query_results import QueryResults
from bcls_core.similarity import LabelSetRelevance
from bcls_core.store import Artifact
from bcls_core.students import Student, load_student
from bcls_core.training.batches import InputSource
from bcls_core.training.evaluate import EvaluateTraining, evaluate
from bcls_core.training.history import MODEL
from bcls_core.training.loop import train
from bcls_core.training.references import References
from bcls_core.training.validate import encode_split
from bcls_core.workers import Workers

SPLIT = "val"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(ground: Any) -> Artifact:
    job = ground.begin("evaluated")
    train(job, Workers(), lambda *_: None)
    return job.draft.commit(fingerprint={"training": "evaluated"}, schema="training/1")


@pytest.fixture(scope="module")
def student(trained: Artifact) -> Student:
    return load_student(trained.local(MODEL))


@pytest.fixture(scope="module")
def rows(ground: Any) -> CorpusRows:
    return CorpusRows(ground.corpus, SPLIT)


@pytest.fixture(scope="module")
def encoded(student: Student, rows: CorpusRows) -> tuple[np.ndarray, np.ndarray]:
    """Encodings made one by one, not in the batches of an evaluation."""
    with torch.no_grad():
        images = [student.encode_images(student.prepare_images(rows.images([row]))) for row in range(rows.image_count)]
        texts = rows.captions(np.arange(rows.caption_count))
        captions = [student.encode_captions(student.prepare_captions([text])) for text in texts]
    return torch.cat(images).numpy(), torch.cat(captions).numpy()


def references(rows: CorpusRows) -> References:
    generator = np.random.default_rng(0)
    places = generator.permutation(rows.image_count * rows.caption_count)[:150]
    images, captions = np.divmod(places, rows.caption_count)
    ratings = Ratings(
        "people",
        [rows.image_ids[row] for row in images],
        [str(rows.caption_ids[row]) for row in captions],
        generator.integers(1, 5, 150).astype(float),
        "0" * 64,
    )
    texts = rows.captions(np.arange(40))
    pairs = CaptionPairs(texts[:20], texts[20:], generator.random(20), "1" * 64, "alike")
    groups = {image_id: f"class {row % 5}" for row, image_id in enumerate(rows.image_ids)}
    return References([ratings], [pairs], groups)


@pytest.fixture(scope="module")
def results(ground: Any, student: Student, rows: CorpusRows) -> QueryResults:
    return evaluate(student, ground.corpus, ground.labels, SPLIT, references(rows))


def test_every_figure_is_that_of_its_function_on_whole_matrices(
    ground: Any, student: Student, rows: CorpusRows, encoded: tuple[np.ndarray, np.ndarray], results: QueryResults
) -> None:
    images, captions = encoded
    scores = images @ captions.T
    own = [rows.caption_ids[rows.captions_of(row)] for row in range(rows.image_count)]
    labels = LabelSetRelevance(ground.labels, "cider", SPLIT).rows(own, rows.caption_ids)
    truth = true_relevance(ground.corpus, rows.image_ids)
    assert truth is not None
    expected = dict(retrieval(scores, rows.caption_image))
    for prefix, relevance in (("label/cider", labels), ("true", truth[:, rows.caption_image])):
        graded = rank_correlation(scores, relevance) | coherence(scores, relevance, rows.caption_image)
        expected |= {f"{prefix}/{name}": value for name, value in graded.items()}
    expected |= {f"c2c/{name}": value for name, value in caption_to_caption(captions, rows.caption_image).items()}
    groups = [f"class {row % 5}" for row in range(rows.image_count)]
    expected |= {f"i2i/{name}": value for name, value in image_to_image(images, groups).items()}
    given = references(rows)
    image = np.array([rows.image_ids.index(image_id) for image_id in given.ratings[0].image_ids])
    caption = np.array([list(map(str, rows.caption_ids)).index(key) for key in given.ratings[0].caption_keys])
    human = human_relevance(scores[image, caption], given.ratings[0].ratings, image, rows.caption_image[caption])
    assert human["excluded"] > 0
    expected |= {f"human/people/{name}": human[name] for name in ("spearman", "per_image_spearman", "pairs")}
    alike = caption_similarity(captions[:20], captions[20:40], given.caption_pairs[0].scores)
    expected |= {f"sts/alike/{name}": value for name, value in alike.items()}
    found = results.metrics()
    # Batches of another size move a score by some 1e-7, and so, rarely, a pair of them.
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_a_worker_returns_what_json_can_carry(ground: Any, trained: Artifact, results: QueryResults) -> None:
    worker = EvaluateTraining(ground.corpus, ground.labels, trained, References(), "cpu")
    found = worker({"piece": "evaluate", "split": SPLIT})
    files = {name: base64.b64decode(data) for name, data in found["queries"].items()}
    again = QueryResults.from_files(files)
    assert set(found["metrics"]) == set(again.metrics()) | {"images", "captions", "chance/t2i/r10"}
    assert found["metrics"]["rsum"] == results.metrics()["rsum"]
    low, high = found["intervals"]["t2i/r10"]
    assert low < found["metrics"]["t2i/r10"] < high
    assert not [name for name in found["metrics"] if name.startswith(("human", "sts", "i2i"))]


def test_references_of_another_dataset_are_refused(ground: Any, student: Student, rows: CorpusRows) -> None:
    groups = dict.fromkeys(rows.image_ids[1:], "a")
    with pytest.raises(InputError, match="image groups: 1 of 24 images have none"):
        evaluate(student, ground.corpus, ground.labels, SPLIT, References(image_groups=groups))
    foreign = Ratings("people", ["COCO_1.jpg"], ["17"], np.ones(1), "0" * 64)
    with pytest.raises(InputError, match=r"COCO_1\.jpg"):
        evaluate(student, ground.corpus, ground.labels, SPLIT, References([foreign]))


class Distance(Student):
    """A trained student's encodings under a score that is no product."""

    factorised = False

    def __init__(self, inner: Student) -> None:
        super().__init__({}, inner.preprocessor)
        self.inner = inner

    def encode_images(self, batch: Any) -> torch.Tensor:
        return self.inner.encode_images(batch)

    def encode_captions(self, batch: Any) -> torch.Tensor:
        return self.inner.encode_captions(batch)

    def score(self, image_encodings: torch.Tensor, caption_encodings: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(image_encodings, caption_encodings, compute_mode="donot_use_mm_for_euclid_dist")


def test_a_score_that_is_no_product_orders_as_it_says(
    ground: Any, student: Student, rows: CorpusRows, results: QueryResults
) -> None:
    given = references(rows)
    found = evaluate(Distance(student), ground.corpus, ground.labels, SPLIT, References(given.ratings)).metrics()
    # Unit vectors are as near as their cosine is high, so everything but uni-modal retrieval is there and the same.
    same = results.metrics()
    for name in ("i2t/r5", "t2i/r5", "rsum", "label/cider/t2i/kendall", "human/people/spearman"):
        assert found[name] == pytest.approx(same[name], rel=2e-3, abs=2e-3), name
    assert not [name for name in found if name.startswith(("c2c", "i2i"))]
    with pytest.raises(InputError, match="images have no score with each other"):
        evaluate(Distance(student), ground.corpus, ground.labels, SPLIT, given)


def test_benchmarks_of_coco_are_metrics_with_intervals(ground: Any, student: Student, tmp_path: Path) -> None:
    rows = CorpusRows(ground.corpus, "train")
    image_of = {
        int(caption): 1000 + int(row) for caption, row in zip(rows.caption_ids, rows.caption_image, strict=True)
    }
    captions_of = {1000 + row: rows.caption_ids[rows.captions_of(row)].tolist() for row in range(rows.image_count)}
    more = {image: [*own, captions_of[1000 + (image + 7) % 60][0]] for image, own in captions_of.items()}
    back: dict[int, list[int]] = {}
    for image, own in more.items():
        for caption in own:
            back.setdefault(caption, []).append(image)
    some = {image: own for image, own in more.items() if image % 3 == 0}
    for name, by_image, by_caption in (
        ("original", captions_of, {caption: [image] for caption, image in image_of.items()}),
        ("cxc", more, back),
        ("eccv", some, {caption: images for caption, images in back.items() if len(images) > 1}),
    ):
        (tmp_path / f"{name}_image_to_caption.json").write_text(json.dumps(by_image))
        (tmp_path / f"{name}_caption_to_image.json").write_text(json.dumps(by_caption))
    np.save(tmp_path / "coco_test_ids.npy", rows.caption_ids)
    truth = CocoGroundTruth.load(tmp_path)

    results = evaluate(student, ground.corpus, ground.labels, "train", References(coco=truth))
    encoded = encode_split(student, InputSource(rows, student.preprocessor), Workers(), CPU)
    expected = coco_queries(*encoded, rows.caption_ids, rows.caption_image, ground_truth=truth).metrics()
    found = results.metrics()
    shared = {name: value for name, value in expected.items() if name in found}
    assert {name for name in expected if name not in found} == {
        f"eccv/{side}/{count}" for side in ("i2t", "t2i") for count in ("queries", "excluded")
    }
    assert {name: found[name] for name in shared} == pytest.approx(shared)
    assert found["eccv/i2t/map_at_r_queries"] == expected["eccv/i2t/queries"] == 20
    intervals = results.intervals()
    for name in ("coco-5k/rsum", "coco-1k/t2i/r1", "cxc/i2t/r5", "eccv/t2i/map_at_r"):
        assert intervals[name].low <= found[name] <= intervals[name].high
    with pytest.raises(InputError, match="300 of the 300 captions of the COCO 5K test are not there"):
        evaluate(student, ground.corpus, ground.labels, SPLIT, References(coco=truth))


def test_groups_of_one_image_each_are_refused(ground: Any, student: Student, rows: CorpusRows) -> None:
    alone = References(image_groups={name: name for name in rows.image_ids})
    with pytest.raises(InputError, match=r"each of the \d+ images of the split is alone in its group"):
        evaluate(student, ground.corpus, ground.labels, SPLIT, alone)
