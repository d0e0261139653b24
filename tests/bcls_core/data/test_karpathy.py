from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bcls_core.data.karpathy import read_karpathy
from bcls_core.errors import CorpusError


def image(name: str, split: str = "train", *texts: str, **entry: Any) -> dict[str, Any]:
    sentences = [{"raw": text} for text in texts or (f"caption of {name}",)]
    return {"filename": name, "split": split, "sentences": sentences, **entry}


def write(folder: Path, document: Any) -> Path:
    path = folder / "annotations.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def error_of(folder: Path, document: Any, **splits: str) -> str:
    with pytest.raises(CorpusError) as caught:
        read_karpathy(write(folder, document), splits=splits)
    return str(caught.value)


def test_images_come_by_split_then_in_file_order(tmp_path: Path) -> None:
    entries = [image("a", "test"), image("b", "restval"), image("c", "val"), image("d"), image("e", "test")]

    records = read_karpathy(write(tmp_path, {"images": entries}), splits={}).records

    assert [(record.image_id, record.split) for record in records] == [
        ("b", "train"),
        ("d", "train"),
        ("c", "val"),
        ("a", "test"),
        ("e", "test"),
    ]


def test_a_file_may_lie_in_its_filepath_or_flat(tmp_path: Path) -> None:
    entries = [image("a.jpg", filepath="val2014"), image("b.jpg"), image("c.jpg", filepath="")]

    records = read_karpathy(write(tmp_path, {"images": entries}), splits={}).records

    assert [record.paths for record in records] == [("val2014/a.jpg", "a.jpg"), ("b.jpg",), ("c.jpg",)]


def test_gzip_is_read_whatever_its_name(tmp_path: Path) -> None:
    document = {"images": [image("a.jpg")]}
    plain = read_karpathy(write(tmp_path, document), splits={})

    packed = read_karpathy(write(tmp_path, gzip.compress(json.dumps(document).encode())), splits={})

    assert packed.records == plain.records
    assert packed.sha256 != plain.sha256


def test_ids_come_from_sentid_then_sentids_then_are_numbered(tmp_path: Path) -> None:
    entries = [
        image("a", "train", "numbered", "also"),
        {**image("b", "train", "own", "null"), "sentids": [40, 41]},
        {**image("c", "train", "one too few"), "sentids": [50, 51]},
    ]
    entries[1]["sentences"][0]["sentid"] = 7
    entries[1]["sentences"][1]["sentid"] = None

    records = read_karpathy(write(tmp_path, {"images": entries}), splits={}).records

    ids = {caption.caption: caption.caption_id for record in records for caption in record.captions}
    assert ids == {"numbered": 52, "also": 53, "own": 7, "null": 41, "one too few": 54}


def test_sentences_of_another_shape_are_rejects_not_errors(tmp_path: Path) -> None:
    entry = {**image("a"), "sentences": ["a text", {"tokens": ["a"], "sentid": 3}, {"raw": "good", "sentid": 4}]}

    found = read_karpathy(write(tmp_path, {"images": [entry]}), splits={})

    assert [caption.caption_id for caption in found.records[0].captions] == [4]
    assert [(reject.key, reject.reason.value) for reject in found.rejects] == [
        ("annotations.json: images[0].sentences[0]", "caption is not text"),
        ("3", "caption is not text"),
    ]
    assert (found.input_images, found.input_captions) == (1, 3)


def test_an_unknown_split_is_explained_with_the_way_out(tmp_path: Path) -> None:
    entry = image("COCO_val2014_000000004711.jpg", "dev", cocoid=4711, imgid=3)

    assert error_of(tmp_path, {"images": [image("a"), entry]}) == (
        'annotations.json: image 4711 ("COCO_val2014_000000004711.jpg") names split "dev", '
        "expected one of train, val, test, restval.\n"
        "  Map it in the recipe: ingest.splits: {dev: val}"
    )
    assert read_karpathy(tmp_path / "annotations.json", splits={"dev": "val"}).records[1].split == "val"


def test_all_unknown_splits_are_named_at_once(tmp_path: Path) -> None:
    entries = [image("a", "dev"), image("b", "train-extra"), image("c", "dev")]

    message = error_of(tmp_path, {"images": entries})

    assert 'image 0 ("a")' in message
    assert message.endswith('ingest.splits: {dev: val, "train-extra": train}')


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"not json at all", ["annotations.json", "not JSON"]),
        (b"", ["not JSON"]),
        (b"\xff\xfe\x00", ["not JSON"]),
        (b"[" * 100_000, ["not JSON"]),
        (b"1" * 5_000, ["not JSON"]),
        (b"\x1f\x8b broken gzip", ["not JSON"]),
        ([], ["found a list at the top level"]),
        (None, ["found null at the top level"]),
        ({}, ['no key "images"']),
        ({"images": {}}, ['"images" is an object']),
        ({"images": []}, ['"images" is empty']),
        ({"images": [image("a"), 5]}, ["images[1] is a number"]),
        ({"images": [{"filename": "a", "split": "train"}]}, ["images[0] has no 'sentences'"]),
        (
            {"images": [image("a"), {**image("b"), "filename": 7}]},
            ["images[1].filename is a number, expected a string"],
        ),
        ({"images": [{**image("a"), "split": None}]}, ["images[0].split is null"]),
        ({"images": [{**image("a"), "sentences": {}}]}, ["images[0].sentences is an object, expected a list"]),
        ({"images": [{**image("a"), "filepath": ["x"]}]}, ["images[0].filepath is a list"]),
    ],
)
def test_another_shape_is_an_error_that_names_the_place(tmp_path: Path, document: Any, words: list[str]) -> None:
    message = error_of(tmp_path, document)

    assert all(word in message for word in words), message


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(CorpusError, match=r"cannot be read .*ingest\.annotations"):
            read_karpathy(path, splits={})


def test_truncated_gzip_is_an_error(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps({"images": [image("a")]}).encode())

    assert "not JSON" in error_of(tmp_path, packed[:-9])


@pytest.mark.parametrize(
    ("name", "images", "captions", "splits"),
    [
        ("coco_mini/annotations.json", 1_002, 5_000, {"train": 600, "val": 201, "test": 201}),
        ("flickr8k/dataset_flickr8k.json.gz", 7_500, 37_500, {"train": 6_000, "val": 1_000, "test": 500}),
    ],
)
def test_real_files(shared_data: Path, name: str, images: int, captions: int, splits: dict[str, int]) -> None:
    found = read_karpathy(shared_data / "data" / name, splits={})

    accepted = sum(len(record.captions) for record in found.records)
    assert (found.input_images, found.input_captions) == (images, captions)
    assert Counter(record.split for record in found.records) == splits
    assert accepted + len(found.rejects) == captions
