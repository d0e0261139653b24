from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcls_core.config import DemoIngest
from bcls_core.data.ingest import ALGORITHM_VERSION, determinants_of, plan_ingest, summarise
from bcls_core.data.inputs import input_digest
from bcls_core.data.schema import CAPTIONS, IMAGES, REJECTS
from bcls_core.errors import BclsError, CorpusError
from bcls_core.store import Artifact, Store

Jpeg = Callable[..., bytes]
Ingest = Callable[..., Artifact]
RowsOf = Callable[[Artifact, str], list[dict[str, Any]]]


def flat_png(grey: int) -> bytes:
    """A 2 x 2 PNG made by hand, its pixels uncompressed: the same bytes with every version of every library."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    rows = bytes([0, grey, grey]) * 2
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


def fill(source: Any, images: int = 11) -> None:
    """Images over all splits, an unusable one, and captions that are not all usable."""
    for number in range(images):
        split = ("train", "restval", "val", "test")[number % 4]
        texts = [f"caption {number} {k}" for k in range(number % 3 + 1)]
        sentences = [{"raw": text, "sentid": 10 * number + k} for k, text in enumerate(texts)]
        source.add(f"{number:02d}.png", flat_png(number), split=split, sentences=sentences)
    source.add("gone.png", None, sentences=[{"raw": "lost", "sentid": 1_000}])
    source.add("00.png", None, sentences=[{"raw": "twice", "sentid": 1_001}])
    source.images[1]["sentences"].append({"raw": " ", "sentid": 1_002})


def test_the_corpus_says_what_went_in_and_what_came_out(source: Any, ingest: Ingest, rows_of: RowsOf) -> None:
    fill(source)

    corpus = ingest(source.settings())

    assert corpus.tables == ["captions", "images", "rejects"]
    assert corpus.manifest.statistics == {
        "images": {"input": 13, "accepted": 11, "rejected": 2},
        "captions": {"input": 24, "accepted": 21, "rejected": 3},
        "rejects": {
            "images": {"duplicate image id": 1, "missing": 1},
            "captions": {"empty caption": 1, "its image was rejected": 2},
        },
        "splits": {
            "train": {"images": 6, "captions": 12},
            "val": {"images": 3, "captions": 6},
            "test": {"images": 2, "captions": 3},
        },
    }
    assert len(rows_of(corpus, "images")) == 11
    assert len(rows_of(corpus, "captions")) == 21
    assert len(rows_of(corpus, "rejects")) == 5


@pytest.mark.parametrize("shard_images", [2, 3, 100])
def test_shards_hold_one_split_and_are_row_aligned(source: Any, ingest: Ingest, shard_images: int) -> None:
    fill(source)

    corpus = ingest(source.settings(), shard_images)

    seen = []
    for images, captions, rejects in zip(
        *(corpus.scan(name) for name in ("images", "captions", "rejects")), strict=True
    ):
        assert (images.schema, captions.schema, rejects.schema) == (IMAGES, CAPTIONS, REJECTS)
        assert images.num_rows <= shard_images
        splits = set(images["split"].to_pylist()) | set(captions["split"].to_pylist())
        assert len(splits) == (1 if images.num_rows else 0)
        order = {name: row for row, name in enumerate(images["image_id"].to_pylist())}
        keys = [(order[row["image_id"]], row["caption_id"]) for row in captions.to_pylist()]
        assert keys == sorted(keys)
        seen += [(*splits, name) for name in order]
    assert [split for split, _ in seen] == ["train"] * 6 + ["val"] * 3 + ["test"] * 2
    assert [name for _, name in seen[:6]] == ["00.png", "01.png", "04.png", "05.png", "08.png", "09.png"]


def test_the_content_does_not_depend_on_the_cut(source: Any, ingest: Ingest) -> None:
    fill(source)

    digests = {ingest(source.settings(), shard_images).content_digest for shard_images in (1, 4, 100)}

    assert len(digests) == 1


def test_golden_content(source: Any, ingest: Ingest) -> None:
    """If this fails because results changed on purpose, raise ALGORITHM_VERSION and pin the new digest."""
    fill(source)

    corpus = ingest(source.settings())

    assert ALGORITHM_VERSION == 1
    assert corpus.version == "b79a3ae8828232c6"
    assert corpus.content_digest == "c4916d1412ca8d93c906dc6e17000a1e01d8aaa063ed35885c88c7862f87d7f3"


def test_what_determines_a_corpus(source: Any, jpeg: Jpeg) -> None:
    source.add("a.jpg", jpeg())
    inputs = {"annotations": "0", "images": "1"}

    determinants = determinants_of(source.settings(), inputs)

    assert determinants == {
        "stage": "ingest",
        "algorithm": ALGORITHM_VERSION,
        "settings": {
            "source": "karpathy",
            "splits": {"restval": "train"},
            "resize": None,
            "max_pixels": 64_000_000,
        },
        "inputs": inputs,
    }
    assert determinants_of(source.settings(resize=9), inputs)["encoder"] == f"Pillow {PIL.__version__}"


def test_a_killed_ingest_continues(source: Any, run: Any, tmp_path: Path) -> None:
    fill(source)
    settings_, store = source.settings(), Store(tmp_path / "store")
    inputs = input_digest(settings_, run)
    first = plan_ingest(settings_, 2, store.draft("corpus", "v1", layout={"shard_images": 2}), run)
    results = run(first.worker, first.arguments, first.pieces[:3], "")

    again = store.draft("corpus", "v1", layout={"shard_images": 2})
    second = plan_ingest(settings_, 2, again, run)
    results += run(second.worker, second.arguments, second.pieces[3:], "")
    statistics = second.finish(results, inputs)

    assert statistics["images"] == {"input": 13, "accepted": 11, "rejected": 2}
    assert again.commit(fingerprint={}, schema="corpus/1").manifest.tables["images"].rows == 11


def test_an_image_that_changes_meanwhile_is_noticed(source: Any, run: Any, tmp_path: Path) -> None:
    fill(source)
    settings_ = source.settings()
    inputs = input_digest(settings_, run)
    draft = Store(tmp_path / "store").draft("corpus", "v1")
    plan = plan_ingest(settings_, 4, draft, run)
    (source.folder / "images" / "03.png").write_bytes(flat_png(200))

    results = run(plan.worker, plan.arguments, plan.pieces, "")
    draft.mark("shard-00000", {})

    with pytest.raises(CorpusError, match=r"^images changed while they were read"):
        plan.finish(results, inputs)
    assert (draft.marks(), draft.entries()) == ({}, [])  # or the next attempt would find the same and fail again


def test_annotations_that_change_meanwhile_are_noticed(source: Any, run: Any, tmp_path: Path) -> None:
    fill(source)
    settings_ = source.settings()
    inputs = input_digest(settings_, run)
    settings_.annotations.write_text(settings_.annotations.read_text() + " ")
    plan = plan_ingest(settings_, 4, Store(tmp_path / "store").draft("corpus", "v1"), run)

    with pytest.raises(CorpusError, match=r"^the annotations changed while they were read"):
        plan.finish(run(plan.worker, plan.arguments, plan.pieces, ""), inputs)


def test_a_source_without_a_usable_record_is_an_error(source: Any, ingest: Ingest) -> None:
    source.add("a.jpg", None, sentences=[{"raw": ""}])

    with pytest.raises(
        CorpusError, match=r"none of its 1 images can be used \(1 x empty caption, 1 x no usable caption\)"
    ):
        ingest(source.settings())


def test_a_source_without_a_usable_image_is_an_error(source: Any, ingest: Ingest) -> None:
    source.add("a.jpg")
    source.add("b.jpg", b"text")

    with pytest.raises(CorpusError, match=r"all 2 images of the source were rejected \(missing 1, not an image 1\)"):
        ingest(source.settings())


def test_lost_rows_are_a_fault() -> None:
    result = {"split": "train", "images": 3, "captions": 8, "rejects": {"images": {"missing": 1}, "captions": {}}}

    assert summarise({"images": 4, "captions": 8}, [result])["images"]["rejected"] == 1
    with pytest.raises(BclsError, match="9 captions went in, 8 were accepted, 0 rejected: rows got lost"):
        summarise({"images": 4, "captions": 9}, [result])


GOOD, BAD = st.sampled_from(["good"]), ["missing", "empty", "text", "cut", "symlink", "escape", "bomb", "bad name"]
images_strategy = st.lists(
    st.tuples(
        st.one_of(GOOD, st.sampled_from(BAD)),
        st.integers(0, 5),  # makes names, some of them twice
        st.sampled_from(["train", "restval", "val", "test"]),
        st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["a boat", "", "\t", "\x01", None, 7])), max_size=3),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images_strategy)
def test_every_input_row_is_accepted_or_rejected(
    new_source: Any, ingest: Ingest, rows_of: RowsOf, images: list[tuple[str, int, str, list[tuple[int, Any]]]]
) -> None:
    source = new_source()
    source.add("sure.png", flat_png(1), sentences=[{"raw": "a sure thing", "sentid": 77}])
    folder = source.folder / "images"
    expected_images, expected_captions = 1, 1
    for kind, number, split, captions in images:
        sentences = [{"raw": text, "sentid": caption_id} for caption_id, text in captions]
        source.add(_make(folder, kind, number), None, split=split, sentences=sentences)
        expected_images, expected_captions = expected_images + 1, expected_captions + len(sentences)

    corpus = ingest(source.settings(max_pixels=10_000), shard_images=2)

    rejects = rows_of(corpus, "rejects")
    accepted = {name: rows_of(corpus, name) for name in ("images", "captions")}
    for name, expected in (("images", expected_images), ("captions", expected_captions)):
        assert len(accepted[name]) + sum(row["source"] == name for row in rejects) == expected
    assert {row["image_id"] for row in accepted["captions"]} == {row["image_id"] for row in accepted["images"]}
    assert all(row["image_id"].startswith(("good", "sure")) for row in accepted["images"])
    ids = [row["caption_id"] for row in accepted["captions"]]
    assert len(set(ids)) == len(ids)


def _make(folder: Path, kind: str, number: int) -> str:
    """Lays a file of that kind into the folder and returns the name an annotations file gives it."""
    content = {
        "good": flat_png(number),
        "empty": b"",
        "text": b"text",
        "cut": flat_png(number)[:45],
        "bomb": flat_png(number).replace(struct.pack(">II", 2, 2), struct.pack(">II", 60_000, 60_000)),
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}{number}.png"
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == "symlink" and not path.is_symlink():
        path.symlink_to(folder / "sure.png")
    return {"escape": f"../images/sure{number}.png", "bad name": f"a\x00{number}"}.get(kind, path.name)


def test_features_only(source: Any, ingest: Ingest, rows_of: RowsOf, tmp_path: Path) -> None:
    fill(source)
    names = [f"{number:02d}.png" for number in range(11)]
    matrix = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float16)
    np.savez(tmp_path / "f.npz", image_id=np.array(names), features=matrix)

    corpus = ingest(source.settings(features=tmp_path / "f.npz"))

    assert corpus.tables == ["captions", "features", "images", "rejects"]
    stored = {row["image_id"]: row["features"] for row in rows_of(corpus, "features")}
    assert stored == dict(zip(names, matrix.tolist(), strict=True))
    assert all(row["image"] is None for row in rows_of(corpus, "images"))
    assert corpus.manifest.statistics["rejects"]["images"] == {"duplicate image id": 1, "missing features": 1}


def test_demo(ingest: Ingest, rows_of: RowsOf) -> None:
    settings_ = DemoIngest(source="demo", train=5, val=3, test=2, size=32)

    corpus, again = ingest(settings_, shard_images=2), ingest(settings_, shard_images=100)

    assert corpus.content_digest == again.content_digest
    assert corpus.tables == ["captions", "images", "rejects", "truth"]
    assert corpus.manifest.statistics["images"] == {"input": 10, "accepted": 10, "rejected": 0}
    assert corpus.manifest.statistics["captions"] == {"input": 50, "accepted": 50, "rejected": 0}
    truth = [row["image_id"] for row in rows_of(corpus, "truth")]
    assert truth == [row["image_id"] for row in rows_of(corpus, "images")]
    assert {row["caption_id"] for row in rows_of(corpus, "captions")} == set(range(50))


def test_a_remote_store(source: Any, ingest: Ingest, rows_of: RowsOf) -> None:
    fill(source)

    remote = ingest(source.settings(), root="memory://test-ingest")

    assert remote.content_digest == ingest(source.settings()).content_digest


def test_coco_mini(shared_data: Path, source: Any, ingest: Ingest, rows_of: RowsOf) -> None:
    folder = shared_data / "data" / "coco_mini"

    corpus = ingest(
        source.settings().model_copy(update={"annotations": folder / "annotations.json", "images": folder / "images"}),
        shard_images=256,
    )

    assert corpus.manifest.statistics == {
        "images": {"input": 1_002, "accepted": 1_002, "rejected": 0},
        "captions": {"input": 5_000, "accepted": 5_000, "rejected": 0},
        "rejects": {"images": {}, "captions": {}},
        "splits": {
            "train": {"images": 600, "captions": 3_000},
            "val": {"images": 201, "captions": 1_000},
            "test": {"images": 201, "captions": 1_000},
        },
    }
    captions = [row["image_id"] for row in rows_of(corpus, "captions")]
    per_image = np.unique(captions, return_counts=True)[1]
    assert (per_image != 5).sum() == 7
    first = json.loads((folder / "annotations.json").read_bytes())["images"][0]["filename"]
    row = next(row for row in corpus.read("images", 0).to_pylist() if row["image_id"] == first)
    assert row["image"] == (folder / "images" / first).read_bytes()
    assert min(row["width"], row["height"]) == 256
