from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bcls_core.config import DemoIngest
from bcls_core.data.demo import demo_records, truth_records
from bcls_core.data.inputs import FileSum
from bcls_core.data.records import CaptionRecord, ImageRecord
from bcls_core.data.rejects import Reason, Reject
from bcls_core.data.schema import CAPTIONS, IMAGES, IMAGES_PER_ROW_GROUP, REJECTS
from bcls_core.data.shard_file import ShardPlan, write_plan
from bcls_core.data.shards import DemoShard, IngestShard
from bcls_core.store import Draft, Store

Jpeg = Callable[..., bytes]


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Store(tmp_path / "store").draft("corpus", "v1")


def record(name: str, *captions: int) -> ImageRecord:
    return ImageRecord(name, "val", (name,), tuple(CaptionRecord(number, f"text {number}") for number in captions))


def test_a_shard_holds_what_can_be_used_and_says_why_the_rest_cannot(source: Any, jpeg: Jpeg, draft: Draft) -> None:
    source.add("good.jpg", jpeg(1))
    source.add("cut.jpg", jpeg(2)[:-50])
    source.add("last.jpg", jpeg(3))
    records = [record("good.jpg", 1, 2), record("cut.jpg", 3, 4), record("gone.jpg", 5), record("last.jpg", 6)]
    earlier = [Reject("captions", "99", Reason.EMPTY_CAPTION)]
    write_plan(draft, 0, ShardPlan("val", records, earlier))

    result = IngestShard(source.settings(), draft)({"piece": "shard-00000", "part": 0})

    images, captions, rejects = (draft.read_table(name, 0) for name in ("images", "captions", "rejects"))
    assert (images.schema, captions.schema, rejects.schema) == (IMAGES, CAPTIONS, REJECTS)
    assert images.to_pylist() == [
        {
            "image_id": name,
            "split": "val",
            "image": jpeg(seed),
            "width": 12,
            "height": 9,
            "sha256": hashlib.sha256(jpeg(seed)).hexdigest(),
        }
        for name, seed in (("good.jpg", 1), ("last.jpg", 3))
    ]
    assert [(row["caption_id"], row["image_id"]) for row in captions.to_pylist()] == [
        (1, "good.jpg"),
        (2, "good.jpg"),
        (6, "last.jpg"),
    ]
    assert [tuple(row.values()) for row in rejects.to_pylist()] == [
        ("captions", "99", "empty caption"),
        ("images", "cut.jpg", "truncated"),
        ("captions", "3", "its image was rejected"),
        ("captions", "4", "its image was rejected"),
        ("images", "gone.jpg", "missing"),
        ("captions", "5", "its image was rejected"),
    ]
    assert {name: result[name] for name in ("split", "images", "captions", "rejects")} == {
        "split": "val",
        "images": 2,
        "captions": 3,
        "rejects": {
            "images": {"missing": 1, "truncated": 1},
            "captions": {"empty caption": 1, "its image was rejected": 3},
        },
    }


def test_a_shard_reports_the_sum_of_what_it_read(source: Any, jpeg: Jpeg, draft: Draft) -> None:
    source.add("a.jpg", jpeg(1))
    source.add("text.jpg", b"text")
    write_plan(draft, 0, ShardPlan("val", [record("a.jpg", 1), record("text.jpg", 2), record("gone.jpg", 3)], []))
    expected = FileSum()
    expected.add("a.jpg", jpeg(1))
    expected.add("text.jpg", b"text")
    expected.add("gone.jpg", Reason.MISSING)

    assert IngestShard(source.settings(), draft)({"piece": "s", "part": 0})["sum"] == expected.hex()


def test_a_shard_that_loses_all_images_still_has_all_parts(source: Any, draft: Draft) -> None:
    write_plan(draft, 0, ShardPlan("val", [record("gone.jpg", 1)], []))

    result = IngestShard(source.settings(), draft)({"piece": "s", "part": 0})

    assert (result["images"], result["captions"]) == (0, 0)
    assert draft.read_table("images", 0).schema == IMAGES
    assert draft.read_table("captions", 0).num_rows == 0
    assert draft.read_table("rejects", 0).num_rows == 2


def test_row_groups_are_small_enough_to_read_single_images(source: Any, jpeg: Jpeg, draft: Draft) -> None:
    names = [f"{number}.jpg" for number in range(IMAGES_PER_ROW_GROUP + 1)]
    for name in names:
        source.add(name, jpeg())
    write_plan(draft, 0, ShardPlan("val", [record(name, number) for number, name in enumerate(names)], []))

    IngestShard(source.settings(), draft)({"piece": "s", "part": 0})

    with draft.open("images/part-00000.parquet") as file:
        metadata = pq.ParquetFile(file, pre_buffer=False).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [IMAGES_PER_ROW_GROUP, 1]


def test_images_are_shrunk_on_the_way(source: Any, encode: Any, noise: Any, draft: Draft) -> None:
    source.add("a.png", encode(noise(40, 30), "PNG"))
    write_plan(draft, 0, ShardPlan("val", [record("a.png", 1)], []))

    IngestShard(source.settings(resize=15), draft)({"piece": "s", "part": 0})

    (row,) = draft.read_table("images", 0).to_pylist()
    assert (row["width"], row["height"]) == (20, 15)
    assert row["sha256"] == hashlib.sha256(row["image"]).hexdigest()


def test_features_take_the_place_of_images(source: Any, draft: Draft, tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    matrix = np.array([[1, 2], [np.nan, 0], [5, 6]], np.float32)
    np.savez(path, image_id=np.array(["a", "b", "c"]), features=matrix)
    source.add("a")
    records = [record("c", 1), record("b", 2), record("nowhere", 3), record("a", 4)]
    write_plan(draft, 0, ShardPlan("val", records, []))

    result = IngestShard(source.settings(features=path), draft)({"piece": "s", "part": 0})

    nothing = {"image": None, "width": None, "height": None, "sha256": None}
    assert draft.read_table("images", 0).to_pylist() == [
        {"image_id": name, "split": "val"} | nothing for name in ("c", "a")
    ]
    assert draft.read_table("features", 0).to_pylist() == [
        {"image_id": "c", "features": [5.0, 6.0]},
        {"image_id": "a", "features": [1.0, 2.0]},
    ]
    assert draft.read_table("captions", 0)["caption_id"].to_pylist() == [1, 4]
    assert result["rejects"]["images"] == {"missing features": 1, "non-finite features": 1}


def test_a_demo_shard_holds_its_range_with_the_truth(draft: Draft) -> None:
    settings = DemoIngest(source="demo", train=3, val=2, test=2, size=32)

    result = DemoShard(settings, draft)({"piece": "s", "part": 0, "split": "train", "start": 1, "stop": 3})

    images, captions = demo_records(settings, "train", 1, 3)
    assert draft.read_table("images", 0).equals(images)
    assert draft.read_table("captions", 0).equals(captions)
    assert draft.read_table("truth", 0).equals(truth_records(settings, "train", 1, 3))
    assert draft.read_table("rejects", 0).num_rows == 0
    assert result == {"split": "train", "images": 2, "captions": 10, "rejects": {"images": {}, "captions": {}}}
