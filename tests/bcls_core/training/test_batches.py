"""Batches of a corpus that was made from features: the file's own rows, whoever asks for them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcls_core.config import KarpathyIngest, TwoTowerStudent
from bcls_core.data.ingest import determinants_of, plan_ingest
from bcls_core.data.inputs import input_digest
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import CorpusError, ModelError
from bcls_core.store import Artifact, Store, fingerprint
from bcls_core.students import Student, build_student
from bcls_core.students.preprocess import NoImages, Preprocessor
from bcls_core.training.batches import BatchSource, InputSource
from bcls_core.training.frozen import FeatureTable, FrozenFeatures
from bcls_core.training.plan import batch_plan
from bcls_core.training.validate import encode_split
from bcls_core.workers import Workers

DIM = 3
COUNTS = {"train": 11, "val": 4, "test": 1}


def _run(worker: type, arguments: dict[str, Any], pieces: Sequence[dict[str, Any]], _what: str) -> list[dict[str, Any]]:
    work = worker(**arguments)
    return [work(piece) for piece in pieces]


class Words:
    """A corpus of features with its file.

    Attributes:
        features: of each image id, (DIM,) float32 with more digits than a corpus keeps.
        captions: of each image id, in the order of their ids.
    """

    def __init__(
        self, folder: Path, counts: Mapping[str, int] = COUNTS, captions: Callable[[int], int] | None = None
    ) -> None:
        """
        Args:
            counts: images of each split.
            captions: how many the image of that number has; 1 to 5 if None.
        """
        generator = np.random.default_rng(0)
        names = [f"{split}-{number:02d}.jpg" for split, count in counts.items() for number in range(count)]
        numbers = [int(generator.integers(1, 6)) if captions is None else captions(n) for n in range(len(names))]
        self.captions = {
            name: [f"{name} caption {k}" for k in range(number)] for name, number in zip(names, numbers, strict=True)
        }
        self.features = {name: generator.normal(size=DIM).astype(np.float32) for name in names}
        shuffled = generator.permutation(names)
        matrix = np.stack([self.features[name] for name in shuffled])
        np.savez(folder / "features.npz", image_id=shuffled, features=matrix)
        ids = iter(range(1000))
        images = [
            {
                "filename": name,
                "split": name.split("-")[0],
                "sentences": [{"raw": text, "sentid": next(ids)} for text in self.captions[name]],
            }
            for name in names
        ]
        (folder / "annotations.json").write_text(json.dumps({"images": images}))
        self.corpus = self._ingest(folder)

    def _ingest(self, folder: Path) -> Artifact:
        settings = KarpathyIngest(
            source="karpathy", annotations=folder / "annotations.json", features=folder / "features.npz"
        )
        inputs = input_digest(settings, _run)
        determined = determinants_of(settings, inputs)
        draft = Store(folder / "store").draft("corpus", fingerprint(determined)[:16])
        plan = plan_ingest(settings, 3, draft, _run)
        statistics = plan.finish(_run(plan.worker, plan.arguments, plan.pieces, ""), inputs)
        return draft.commit(fingerprint=determined, schema="corpus/1", statistics=statistics)

    def expected(self, image_ids: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.features[name].astype(np.float16) for name in image_ids])).float()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(tmp_path_factory.mktemp("words"))


def source_of(words: Words, split: str = "train", frozen: FrozenFeatures = FrozenFeatures()) -> InputSource:  # noqa: B008
    captions = Student.make_preprocessor({}, [text for texts in words.captions.values() for text in texts]).captions
    return InputSource(CorpusRows(words.corpus, split), Preprocessor(NoImages(), captions), frozen)


@pytest.mark.parametrize("split", COUNTS)
def test_images_are_the_rows_of_the_features_file(words: Words, split: str) -> None:
    source = source_of(words, split)
    rows = np.arange(source.rows.image_count)
    found = source.images(rows)
    assert list(found) == ["features"]
    assert found["features"].dtype == torch.float32
    assert source.rows.image_ids == [name for name in words.features if name.startswith(split)]
    assert torch.equal(found["features"], words.expected(source.rows.image_ids))


def test_rows_come_in_the_order_asked_for_and_as_often(words: Words) -> None:
    source = source_of(words)
    rows = np.array([10, 0, 7, 7, 3, 10])  # through all shards of the split
    names = [source.rows.image_ids[row] for row in rows]
    assert torch.equal(source.images(rows)["features"], words.expected(names))


def test_a_batch_may_be_changed_without_changing_the_next(words: Words) -> None:
    source, rows = source_of(words), np.array([1, 2])
    expected = words.expected([source.rows.image_ids[row] for row in rows])
    source.images(rows)["features"].zero_()
    assert torch.equal(source.images(rows)["features"], expected)


@pytest.mark.parametrize("rows", [[11], [-1], [0, 99]])
def test_a_row_that_is_not_there_is_an_error(words: Words, rows: list[int]) -> None:
    with pytest.raises(CorpusError, match="there are rows 0 to 10"):
        source_of(words).images(np.array(rows))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_parts_of_the_workers_are_the_step(words: Words, workers: int) -> None:
    source = source_of(words)
    plan = batch_plan(source.rows.caption_image, 7, seed=1, epoch=2)
    texts = [text for name in source.rows.image_ids for text in words.captions[name]]
    for step in range(plan.steps):
        image_rows, caption_rows = plan.step(step)
        parts = [BatchSource(source, {}).batch(plan, step, rank, workers) for rank in range(workers)]
        together = torch.cat([part.images["features"] for part in parts])
        assert torch.equal(together, words.expected([source.rows.image_ids[row] for row in image_rows]))
        assert [part.sizes for part in parts] == [parts[0].sizes] * workers
        assert sum(parts[0].sizes) == len(image_rows)
        tokens = source.captions(caption_rows)["input_ids"]
        first = parts[0].captions["input_ids"]
        assert torch.equal(first, tokens[: len(first), : first.shape[1]])
        assert [texts[row].rsplit(" caption ", 1)[0] for row in caption_rows] == [
            source.rows.image_ids[row] for row in image_rows
        ]


def test_pictures_are_never_asked_of_it(words: Words) -> None:
    """The student's own preparation of pictures would refuse."""
    source = source_of(words)
    with pytest.raises(ModelError, match="takes image features"):
        Preprocessor(NoImages(), None).prepare_images([b"picture"])
    assert source.images(np.array([0]))["features"].shape == (1, DIM)


def test_the_corpus_goes_before_features_of_a_frozen_tower(words: Words) -> None:
    other = FeatureTable([np.full((COUNTS["train"], 9), 7.0, np.float32)], np.array([0]))
    source = source_of(words, frozen=FrozenFeatures(images=other, captions=None))
    assert source.images(np.array([4]))["features"].shape == (1, DIM)


def test_a_student_that_expects_features_of_another_length_says_so(words: Words) -> None:
    tower = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    parts = {"kind": "two-tower", "image": {"features": DIM + 1}, "text": {"config": tower | {"intermediate_size": 8}}}
    student = build_student(TwoTowerStudent.model_validate(parts), iter(["a word"]))
    with pytest.raises(ModelError, match=rf"shape \(1, {DIM}\), expected \(n, {DIM + 1}\)"):
        encode_split(student, source_of(words, "test"), Workers(), torch.device("cpu"))


def test_it_reads_the_same_in_another_process(words: Words) -> None:
    source = source_of(words)
    rows = np.array([5, 1])
    there = pickle.loads(pickle.dumps(source))  # noqa: S301 - made in this line
    assert torch.equal(there.images(rows)["features"], source.images(rows)["features"])


def test_a_corpus_of_pictures_gives_pixels(ground: Any) -> None:
    rows = CorpusRows(ground.corpus, "val")
    preprocessor = Student.make_preprocessor({"size": 16}, ["a word"])
    found = InputSource(rows, preprocessor).images(np.array([2, 0]))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"pixel_values": (2, 3, 16, 16)}
    assert torch.equal(found["pixel_values"], preprocessor.prepare_images(rows.images([2, 0]))["pixel_values"])
