from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bcls_core.errors import InputError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth, CocoIds, ground_truth_of


def as_ids(relevance, queries, gallery):
    positives = relevance.positives
    return {
        queries.values[q]: {
            int(gallery.values[e]) for e in positives.entries[positives.starts[q] : positives.starts[q + 1]]
        }
        for q in relevance.asked.tolist()
    }


@pytest.mark.parametrize("seed", range(4))
def test_says_what_the_files_say(small_coco, seed):
    small = small_coco(seed, 1 + seed)
    truth = CocoGroundTruth.load(small.folder)
    assert truth.captions.values.tolist() == small.captions
    assert truth.images.values.tolist() == sorted(small.images)
    assert truth.images.values[truth.caption_image].tolist() == [small.image_of[c] for c in small.captions]
    fifth = len(small.captions) // 5
    assert truth.caption_fold.tolist() == [place // fifth for place in range(len(small.captions))]
    assert (truth.image_fold[truth.caption_image] == truth.caption_fold).all()
    for name in ("coco", "cxc", "eccv"):
        for direction, queries, gallery in (
            ("i2t", truth.images, truth.captions),
            ("t2i", truth.captions, truth.images),
        ):
            relevance, said = getattr(getattr(truth, name), direction), small.answers[name][direction]
            there = set(gallery.values.tolist())
            assert as_ids(relevance, queries, gallery) == {
                query: set(answers) & there for query, answers in said.items()
            }
            totals = {int(queries.values[q]): int(relevance.total[q]) for q in relevance.asked}
            assert totals == {query: len(set(answers)) for query, answers in said.items()}


def test_an_answer_that_is_there_twice_counts_once(small_coco):
    small = small_coco(1)
    plain = CocoGroundTruth.load(small.folder)
    small.answers["eccv"]["t2i"] = {query: answers * 2 for query, answers in small.answers["eccv"]["t2i"].items()}
    small.write()
    assert CocoGroundTruth.load(small.folder).eccv.t2i.total.tolist() == plain.eccv.t2i.total.tolist()


@pytest.mark.needs("data")
def test_the_published_files(shared_data):
    truth = CocoGroundTruth.load(shared_data / "data" / "eccv_caption")
    assert (len(truth.images), len(truth.captions)) == (5000, 25000)
    assert set(np.bincount(truth.caption_image)) == {5}
    assert (set(np.bincount(truth.image_fold)), set(np.bincount(truth.caption_fold))) == ({1000}, {5000})
    asked = {
        name: tuple(len(getattr(getattr(truth, name), direction).asked) for direction in ("i2t", "t2i"))
        for name in ("coco", "cxc", "eccv")
    }
    assert asked == {"coco": (5000, 25000), "cxc": (5000, 24972), "eccv": (1261, 1332)}
    eccv = truth.eccv.i2t
    assert int(eccv.total.sum()) - len(eccv.positives.entries) == 2
    assert truth.captions.find(np.array([144675, 467259])).tolist() == [-1, -1]
    assert int(truth.eccv.t2i.total.sum()) == len(truth.eccv.t2i.positives.entries) == 11279


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.uint64])
def test_ids_are_found_and_others_are_not(dtype):
    ids = CocoIds(np.array([7, 0, 65535, 3]))
    assert ids.find(np.array([3, 0, 7, 65535, 1, 65534], dtype)).tolist() == [3, 1, 0, 2, -1, -1]
    assert ids.find(np.zeros(0, dtype)).tolist() == []
    extremes = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    assert ids.find(extremes).tolist() == {np.uint64: [1, -1], np.uint16: [1, 2]}.get(dtype, [-1, -1])
    assert ids.find(np.array([-1, -2, 65536, 65537, 2**62])).tolist() == [-1] * 5


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "eccv_caption", None)
    monkeypatch.delenv("BCLS_DATA", raising=False)


def test_the_installed_package_is_found_and_not_run(small_coco, without_package, monkeypatch, tmp_path):
    small = small_coco(2)
    package = tmp_path / "site" / "eccv_caption"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('was run')")
    (package / "data").symlink_to(small.folder)
    monkeypatch.delitem(sys.modules, "eccv_caption")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("BCLS_DATA", str(tmp_path / "absent"))
    assert CocoGroundTruth.load().captions.values.tolist() == small.captions
    assert "eccv_caption" not in sys.modules


def test_the_package_as_it_is_published():
    if importlib.util.find_spec("eccv_caption") is None:
        pytest.skip("eccv_caption is not installed")
    assert len(ground_truth_of(None).captions) == 25000


def test_without_the_package_the_data_folder_is_taken(small_coco, without_package, monkeypatch, tmp_path):
    small = small_coco(3)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eccv_caption").symlink_to(small.folder)
    monkeypatch.setenv("BCLS_DATA", str(tmp_path))
    assert ground_truth_of(None).captions.values.tolist() == small.captions


@pytest.mark.parametrize("data", [None, "", "absent"])
def test_where_nothing_is_found_the_error_says_what_to_do(without_package, monkeypatch, data):
    if data is not None:
        monkeypatch.setenv("BCLS_DATA", data)
    with pytest.raises(InputError, match=r"not found. `pip install eccv-caption`, or name the folder"):
        CocoGroundTruth.load()


def test_a_folder_of_that_name_beside_the_script_is_no_package(small_coco, without_package, monkeypatch, tmp_path):
    (tmp_path / "eccv_caption").mkdir()
    monkeypatch.delitem(sys.modules, "eccv_caption")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match="not found"):
        CocoGroundTruth.load()


def test_a_loaded_one_is_taken_as_it_is(small_coco):
    truth = CocoGroundTruth.load(small_coco(4).folder)
    assert ground_truth_of(truth) is truth
    assert ground_truth_of(small_coco(4).folder).captions.values.tolist() == truth.captions.values.tolist()


ALL_FILES = [
    "coco_test_ids.npy",
    *(f"{a}_{b}.json" for a in ("original", "cxc", "eccv") for b in ("image_to_caption", "caption_to_image")),
]


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "cut", "noise"])
def test_a_damaged_file_is_named(small_coco, name, damage):
    path = small_coco(5).folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) * 2 // 3], "noise": b"\xff\x00" * 200}[damage])
    with pytest.raises(InputError, match=rf"{name}: .*as they are published"):
        CocoGroundTruth.load(path.parent)


@pytest.mark.parametrize("name", ALL_FILES[1:])
@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "3",
        "null",
        '{"1": {}}',
        '{"1": {"2": [3]}}',
        '{"1": 2}',
        '{"1": "23"}',
        '{"1": [[2]]}',
        '{"1": [2.0]}',
        '{"1": [true]}',
        '{"1": [NaN]}',
        '{"1": ["2"]}',
        '{"1": [-2]}',
        '{"1": [10000000]}',
        '{"1": [' + "9" * 30 + "]}",
        '{"1": [' + "9" * 5000 + "]}",
        '{"' + "9" * 5000 + '": [1]}',
        '{"-1": [2]}',
        '{"1.0": [2]}',
        '{"x": [2]}',
        '{"²": [2]}',
        '{"": [2]}',
        '{"1": [2], "01": [3]}',
        "[" * 100_000,
    ],
)
def test_json_of_another_shape_is_refused(small_coco, name, text):
    path = small_coco(6).folder / name
    path.write_text(text)
    with pytest.raises(InputError, match=name):
        CocoGroundTruth.load(path.parent)


def test_a_query_that_is_there_twice_is_refused(small_coco):
    path = small_coco(6).folder / "eccv_image_to_caption.json"
    text = path.read_text()
    first = next(iter(json.loads(text)))
    path.write_text(text[:-1] + f', "{first}": [1]}}')
    with pytest.raises(InputError, match="asks twice"):
        CocoGroundTruth.load(path.parent)


def test_a_query_without_answers_is_refused(small_coco):
    small = small_coco(7)
    small.answers["cxc"]["i2t"][small.images[0]] = []
    small.write()
    with pytest.raises(InputError, match=rf"cxc_image_to_caption.json: entry '{small.images[0]}'"):
        CocoGroundTruth.load(small.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids.astype(float), "expected a row of caption ids"),
        (lambda ids: ids.reshape(5, -1), "expected a row of caption ids"),
        (lambda ids: ids[:0], "expected a row of caption ids"),
        (lambda ids: ids > 0, "expected a row of caption ids"),
        (lambda ids: ids[:-1], "expected five folds"),
        (lambda ids: np.concatenate([ids[:-1], ids[:1]]), "expected five folds of distinct captions"),
        (lambda ids: -ids, "where an id is due"),
        (lambda ids: ids + 10**9, "where an id is due"),
        (lambda ids: ids[:-5], "not one image for each caption|fifths"),
        (lambda ids: np.random.default_rng(0).permutation(ids), "consecutive fifths"),
    ],
)
def test_test_ids_that_cannot_be_are_refused(small_coco, change, message):
    small = small_coco(8, 6)
    path = small.folder / "coco_test_ids.npy"
    np.save(path, change(np.array(small.captions)))
    with pytest.raises(InputError, match=message):
        CocoGroundTruth.load(small.folder)


def test_arrays_that_run_code_or_claim_too_much_are_refused(small_coco, tmp_path):
    class Mine:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was-run",))

    small = small_coco(9)
    path = small.folder / "coco_test_ids.npy"
    np.save(path, np.array([Mine()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"coco_test_ids\.npy"):
        CocoGroundTruth.load(small.folder)
    assert not (tmp_path / "was-run").exists()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**50,)})
    path.write_bytes(header.getvalue() + b"\0" * 80)
    with pytest.raises(InputError, match=r"coco_test_ids\.npy"):
        CocoGroundTruth.load(small.folder)
    with path.open("wb") as file:
        np.savez(file, ids=np.array(small.captions))
    with pytest.raises(InputError, match="expected a row of caption ids"):
        CocoGroundTruth.load(small.folder)


@pytest.mark.parametrize("seed", range(60))
def test_a_changed_byte_is_an_error_or_another_ground_truth(small_coco, seed):
    small = small_coco(10)
    generator = np.random.default_rng(seed)
    path = small.folder / ALL_FILES[seed % 7]
    content = bytearray(path.read_bytes())
    content[int(generator.integers(0, min(len(content), 128)))] = int(generator.integers(0, 256))
    path.write_bytes(bytes(content))
    try:
        CocoGroundTruth.load(small.folder)
    except InputError as error:
        assert str(small.folder) in str(error)  # noqa: PT017


@pytest.mark.parametrize("swap", [("coco", "i2t"), ("coco", "t2i")])
def test_cocos_two_files_must_agree(small_coco, swap):
    small = small_coco(11, 3)
    name, direction = swap
    table = small.answers[name][direction]
    first = next(iter(table))
    second = next(key for key in table if table[key] != table[first])
    table[first], table[second] = table[second], table[first]
    small.write()
    with pytest.raises(
        InputError, match=r"original_image_to_caption.json: disagrees with original_caption_to_image.json"
    ):
        CocoGroundTruth.load(small.folder)


@pytest.mark.parametrize(("name", "direction"), [("cxc", "i2t"), ("cxc", "t2i"), ("eccv", "i2t"), ("eccv", "t2i")])
def test_a_file_of_another_id_space_is_refused(small_coco, name, direction):
    small = small_coco(12)
    table = small.answers[name][direction]
    query = next(iter(table))
    table[query] = [95_000, 95_001]
    small.write()
    with pytest.raises(InputError, match=rf"1 queries have no answer among the COCO 5K test, {query} for one"):
        CocoGroundTruth.load(small.folder)
    table[95_000] = table.pop(query)
    small.write()
    with pytest.raises(InputError, match="95000 asks, but is not in the COCO 5K test"):
        CocoGroundTruth.load(small.folder)
