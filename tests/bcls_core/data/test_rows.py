from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.data.rows import CorpusRows
from bcls_core.errors import CorpusError
from bcls_core.store import Artifact

Ingest = Callable[..., Artifact]


@pytest.fixture
def corpus(source: Any, ingest: Ingest, jpeg: Callable[..., bytes]) -> Artifact:
    """Nine images over three splits in shards of two, one shard of train without any image; 0 to 3 captions each."""
    for number in range(9):
        split = ("train", "val", "test")[number // 6 if number < 8 else 2]
        sentences = [{"raw": f"text {number} {k}", "sentid": 100 - 10 * number + k} for k in range(number % 3 + 1)]
        source.add(f"{number}.jpg", None if number in (2, 3) else jpeg(number), split=split, sentences=sentences)
    return ingest(source.settings(), shard_images=2)


def test_rows_agree_with_the_tables(corpus: Artifact, rows_of: Any, jpeg: Callable[..., bytes]) -> None:
    train = CorpusRows(corpus, "train")

    assert train.shards == [0, 2]
    assert train.image_ids == ["0.jpg", "1.jpg", "4.jpg", "5.jpg"]
    captions = [row for row in rows_of(corpus, "captions") if row["split"] == "train"]
    assert train.caption_ids.tolist() == [row["caption_id"] for row in captions]
    assert [train.image_ids[row] for row in train.caption_image] == [row["image_id"] for row in captions]
    assert train.captions(range(train.caption_count)) == [row["caption"] for row in captions]
    assert train.images([3, 0, 3]) == [jpeg(5), jpeg(0), jpeg(5)]
    assert (train.image_count, train.caption_count) == (4, len(captions))
    assert train.caption_ids.dtype == train.caption_image.dtype == np.int64


def test_captions_of_an_image(corpus: Artifact) -> None:
    train = CorpusRows(corpus, "train")

    for row, name in enumerate(train.image_ids):
        number = int(name[0])
        assert train.captions(train.captions_of(row)) == [f"text {number} {k}" for k in range(number % 3 + 1)]


def test_rows_of_a_shard(corpus: Artifact) -> None:
    train = CorpusRows(corpus, "train")

    images, captions = train.rows_of_shard(2)

    assert images.tolist() == [2, 3]
    assert captions.tolist() == [3, 4, 5, 6, 7]
    with pytest.raises(CorpusError, match=r"shard 1 holds nothing of split 'train'; its shards are \[0, 2\]"):
        train.rows_of_shard(1)


def test_every_image_and_caption_is_in_one_split(corpus: Artifact, rows_of: Any) -> None:
    splits = [CorpusRows(corpus, split) for split in ("train", "val", "test")]

    assert sorted(shard for rows in splits for shard in rows.shards) == [0, 2, 3, 4]
    assert [name for rows in splits for name in rows.image_ids] == [
        row["image_id"] for row in rows_of(corpus, "images")
    ]
    ids = np.concatenate([rows.caption_ids for rows in splits])
    assert ids.tolist() == [row["caption_id"] for row in rows_of(corpus, "captions")]


def test_a_split_without_images_is_empty(source: Any, ingest: Ingest, jpeg: Callable[..., bytes]) -> None:
    source.add("a.jpg", jpeg())

    test = CorpusRows(ingest(source.settings()), "test")

    assert (test.image_count, test.caption_count, test.shards, test.image_ids) == (0, 0, [], [])
    assert test.images([]) == []


def test_unknown_splits_are_refused(corpus: Artifact) -> None:
    with pytest.raises(CorpusError, match="no split 'dev'; its splits are train, val, test"):
        CorpusRows(corpus, "dev")


def test_a_pickle_holds_integers_only(corpus: Artifact) -> None:
    train = CorpusRows(corpus, "train")
    assert train.image_ids
    train.images([0, 1, 2, 3])
    train.captions([0])

    data = pickle.dumps(train)

    assert b"text 0" not in data
    assert b"\xff\xd8\xff" not in data
    assert b"5.jpg" not in data
    assert pickle.loads(data).captions([0]) == ["text 0 0"]  # noqa: S301 - our own bytes


def test_features_instead_of_images(source: Any, ingest: Ingest, corpus: Artifact, tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(9)]
    matrix = np.arange(27, dtype=np.float16).reshape(9, 3)
    np.savez(tmp_path / "f.npz", image_id=np.array(names), features=matrix)
    rows = CorpusRows(ingest(source.settings(features=tmp_path / "f.npz"), shard_images=2), "train")

    taken = rows.features([5, 0, 2])

    assert taken.dtype == np.float16
    assert taken.tolist() == matrix[[5, 0, 2]].tolist()
    assert rows.features([]).size == 0
    with pytest.raises(CorpusError, match="holds no images"):
        rows.images([0])
    with pytest.raises(CorpusError, match="no features"):
        CorpusRows(corpus, "train").features([0])


def test_a_remote_corpus_is_read_through_a_local_copy(
    source: Any, ingest: Ingest, jpeg: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source.add("a.jpg", jpeg(3))

    rows = CorpusRows(ingest(source.settings(), root="memory://test-rows"), "train")

    assert rows.images([0]) == [jpeg(3)]
    assert rows.captions([0]) == ["caption of image 0"]
