from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bcls_core.config.ingest import DemoIngest
from bcls_core.data.demo import (
    CAPTIONS_PER_SCENE,
    TRUTH,
    demo_records,
    relevance_from_facts,
    split_size,
    true_relevance,
    truth_records,
)
from bcls_core.data.schema import CAPTIONS, IMAGES, SPLITS
from bcls_core.errors import CorpusError

_DIGEST = """
import hashlib
from bcls_core.config.ingest import DemoIngest
from bcls_core.data.demo import demo_records, truth_records
settings = DemoIngest(source="demo", train=30, val=8, test=12, seed=7)
digest = hashlib.sha256()
for start, stop in ((7, 12), (0, 7)):
    for table in (*demo_records(settings, "test", start, stop), truth_records(settings, "test", start, stop)):
        digest.update(repr(table.to_pylist()).encode())
print(digest.hexdigest())
"""


def test_tables_have_the_schemas_and_counts(demo_settings: DemoIngest) -> None:
    for split in SPLITS:
        size = split_size(demo_settings, split)
        images, captions = demo_records(demo_settings, split, 0, size)
        truth = truth_records(demo_settings, split, 0, size)
        assert (images.schema, captions.schema, truth.schema) == (IMAGES, CAPTIONS, TRUTH)
        assert (images.num_rows, captions.num_rows, truth.num_rows) == (size, CAPTIONS_PER_SCENE * size, size)
        assert captions["image_id"].to_pylist() == np.repeat(images["image_id"].to_pylist(), 5).tolist()
        assert truth["image_id"] == images["image_id"]
        assert set(images["split"].to_pylist()) == set(captions["split"].to_pylist()) == {split}


def test_caption_ids_count_through_the_whole_corpus(demo_settings: DemoIngest) -> None:
    ids = [
        caption_id
        for split in SPLITS
        for caption_id in demo_records(demo_settings, split, 0, split_size(demo_settings, split))[1][
            "caption_id"
        ].to_pylist()
    ]
    assert ids == list(range(5 * (30 + 8 + 12)))


def test_images_are_what_their_rows_say(demo_settings: DemoIngest) -> None:
    images, _ = demo_records(demo_settings, "val", 2, 6)
    assert images["image_id"].to_pylist() == [f"scene-val-{k:06d}" for k in range(2, 6)]
    for row in images.to_pylist():
        image = Image.open(io.BytesIO(row["image"]))
        image.load()
        assert image.size == (row["width"], row["height"]) == (64, 64)
        assert row["sha256"] == hashlib.sha256(row["image"]).hexdigest()
    assert len(set(images["sha256"].to_pylist())) == 4


def test_ranges_join_to_the_whole(demo_settings: DemoIngest) -> None:
    whole = demo_records(demo_settings, "train", 0, 9)
    pieces = [demo_records(demo_settings, "train", start, stop) for start, stop in ((0, 4), (4, 4), (4, 9))]
    for k in range(2):
        assert pa.concat_tables([piece[k] for piece in pieces]) == whole[k]


def test_another_process_makes_the_same_bytes() -> None:
    outputs = [
        subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    namespace: dict[str, object] = {"print": lambda value: outputs.append(f"{value}\n")}
    exec(_DIGEST, namespace)  # noqa: S102
    assert len(outputs) == 3
    assert len(set(outputs)) == 1


def test_scenes_and_captions_are_pinned(demo_settings: DemoIngest) -> None:
    """If this changes on purpose, the algorithm version of the ingest stage has to be raised with it."""
    _, captions = demo_records(demo_settings, "test", 0, 12)
    truth = truth_records(demo_settings, "test", 0, 12)
    told = repr((captions["caption"].to_pylist(), truth["facts"].to_pylist()))
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "7c4fa76fe2b71e05"


def test_pictures_are_pinned_but_for_rounding(demo_settings: DemoIngest) -> None:
    """Mean colours of the quarters of two pictures; as above, a change on purpose raises the algorithm version."""
    images, _ = demo_records(demo_settings, "test", 1, 3)
    quarters = [
        np.asarray(Image.open(io.BytesIO(data))).reshape(2, 32, 2, 32, 3).mean(axis=(1, 3))
        for data in images["image"].to_pylist()
    ]
    expected = [
        [[[251, 197, 151], [255, 201, 152]], [[210, 146, 121], [232, 158, 96]]],
        [[[42, 43, 84], [45, 46, 86]], [[63, 66, 89], [53, 73, 96]]],
    ]
    assert np.abs(np.array(quarters) - expected).max() < 1.5


def test_test_scenes_are_distinct() -> None:
    settings = DemoIngest(source="demo")
    facts = truth_records(settings, "test", 0, settings.test)["facts"].to_pylist()
    assert len({tuple(scene) for scene in facts}) >= 0.98 * settings.test
    train = {tuple(scene) for scene in truth_records(settings, "train", 0, settings.train)["facts"].to_pylist()}
    assert sum(tuple(scene) in train for scene in facts) <= 0.02 * settings.test


def test_true_relevance_is_that_of_the_scenes(demo_settings: DemoIngest) -> None:
    matrix = true_relevance(demo_settings, "test")
    assert matrix.shape == (12, 60)
    assert matrix.dtype == np.float32
    facts = truth_records(demo_settings, "test", 0, 12)["facts"].to_pylist()
    by_image = relevance_from_facts(facts, facts)
    for caption in range(60):
        assert np.array_equal(matrix[:, caption], by_image[:, caption // 5])
    assert np.array_equal(matrix == 1.0, np.repeat(np.eye(12, dtype=bool), 5, axis=1))


def test_a_split_or_range_that_is_not_there_is_an_error(demo_settings: DemoIngest) -> None:
    with pytest.raises(CorpusError, match="no split 'dev'"):
        demo_records(demo_settings, "dev", 0, 1)
    with pytest.raises(CorpusError, match="which has 8"):
        demo_records(demo_settings, "val", 0, 9)
    with pytest.raises(CorpusError, match="not a range"):
        truth_records(demo_settings, "val", 3, 2)
