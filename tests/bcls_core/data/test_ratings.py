from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.data.ratings import Ratings, read_caption_pairs, read_ratings, resolve
from bcls_core.errors import InputError

EXPERT = "a.jpg\tb.jpg#0\t1\t2\t2\na.jpg\ta.jpg#4\t4\t4\t4\n"
CROWD = "a.jpg\tb.jpg#0\t0.333333333333333\t1\t2\na.jpg\tc#d.jpg#1\t0.666667\t4\t2\nb.jpg\ta.jpg#2\t1\t3\t0\n"
TABLE = "rater,image_id,caption_id,rating\n7,a.jpg,17,-2.5\n8,b.jpg,a.jpg#0,40\n"


def write(folder: Path, text: str | bytes, name: str = "r.tsv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(folder: Path, text: str | bytes, name: str = "r.tsv") -> str:
    path = write(folder, text, name)
    with pytest.raises(InputError) as caught:
        read_ratings(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def ratings_of(*pairs: tuple[str, str, float]) -> Ratings:
    image_ids, keys, values = zip(*pairs, strict=True)
    return Ratings("expert", [*image_ids], [*keys], np.array(values, dtype=float), "0")


def test_experts_are_averaged(tmp_path: Path) -> None:
    found = read_ratings(write(tmp_path, EXPERT, "crowd.csv"))
    assert (found.name, found.image_ids, found.caption_keys) == ("expert", ["a.jpg", "a.jpg"], ["b.jpg#0", "a.jpg#4"])
    assert found.ratings.dtype == np.float64
    assert found.ratings.tolist() == [5 / 3, 4.0]
    assert found.sha256 == hashlib.sha256(EXPERT.encode()).hexdigest()


def test_crowd_ratings_are_the_fraction_of_yes_with_equal_ones_equal(tmp_path: Path) -> None:
    found = read_ratings(write(tmp_path, CROWD + "c.jpg\ta.jpg#2\t0.67\t2\t1\n", "expert.txt"))
    assert found.name == "crowd"
    assert found.caption_keys == ["b.jpg#0", "c#d.jpg#1", "a.jpg#2", "a.jpg#2"]
    assert found.ratings.tolist() == [1 / 3, 2 / 3, 1.0, 2 / 3]  # 4 of 6 and 2 of 3 are tied, however they were printed


@pytest.mark.parametrize("form", ["csv", "tsv", "gzip", "mark", "quoted", "dos"])
def test_a_table_with_a_header_is_of_any_scale(tmp_path: Path, form: str) -> None:
    data = {
        "csv": TABLE.encode(),
        "tsv": TABLE.replace(",", "\t").encode(),
        "gzip": gzip.compress(TABLE.encode()),
        "mark": b"\xef\xbb\xbf" + TABLE.encode(),
        "quoted": re.sub(r"([^,\n]+)", r'"\1"', TABLE).encode(),
        "dos": TABLE.replace("\n", "\r\n").encode() + b"\r\n",
    }[form]
    found = read_ratings(write(tmp_path, data, "my set.v2.csv.gz"))
    assert found.name == "my_set.v2"
    assert (found.image_ids, found.caption_keys) == (["a.jpg", "b.jpg"], ["17", "a.jpg#0"])
    assert found.ratings.tolist() == [-2.5, 40.0]
    assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("file", "name"), [("plain", "plain"), ("á b/c.tsv", "c"), ("á b.tsv", "__b"), ("...csv", "ratings"), ("x.gz", "x")]
)
def test_the_name_of_a_table_is_safe_for_a_tracking_server(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(TABLE)
    assert read_ratings(path).name == name


@settings(max_examples=200, deadline=None)
@given(yes=st.integers(0, 9), no=st.integers(0, 9), digits=st.integers(2, 15))
def test_no_crowd_row_can_be_taken_for_an_experts(tmp_path_factory: pytest.TempPathFactory, yes, no, digits) -> None:
    folder = tmp_path_factory.mktemp("r")
    if yes + no == 0:
        assert "neither three ratings" in error_of(folder, "a\tb#0\t0\t0\t0\n")
        return
    found = read_ratings(write(folder, f"a\tb#0\t{yes / (yes + no):.{digits}g}\t{yes}\t{no}\n"))
    assert (found.name, found.ratings.tolist()) == ("crowd", [float(Fraction(yes, yes + no))])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty. Give a tab-separated file"),
        (" \n\n", "empty."),
        ("hello\n", "begins with 'hello'. Give a tab-separated file"),
        ("a.jpg b.jpg#0 1 2 2\n", "begins with 'a.jpg b.jpg#0 1 2 2'."),
        (EXPERT + "a.jpg\tb.jpg#1\t1\t2\n", "line 3: 4 fields, expected 5."),
        (EXPERT + "a.jpg\tb.jpg#1\t1\t2\t2\t2\n", "line 3: 6 fields, expected 5."),
        (EXPERT + "a.jpg\tb.jpg#1\t1\tx\t2\n", "line 3: found 'x', expected a finite number."),
        (EXPERT + "a.jpg\tb.jpg#1\t1\tnan\t2\n", "line 3: found 'nan', expected a finite number."),
        (EXPERT + "a.jpg\tb.jpg#1\t1\t1e999\t2\n", "line 3: found '1e999', expected a finite number."),
        (EXPERT + "a.jpg\tb.jpg#1\t1\t5\t2\n", "line 3: 1 5 2 is neither three ratings from 1 to 4 nor a fraction"),
        (EXPERT + "a.jpg\tb.jpg#1\t1.5\t2\t2\n", "line 3: 1.5 2 2 is neither"),
        (EXPERT + "a.jpg\tb.jpg#1\t0\t0\t3\n", "line 3: crowd ratings (0 0 3) in a file that begins with expert"),
        (CROWD + "a.jpg\tb.jpg#1\t1\t1\t2\n", "line 4: expert ratings (1 1 2) in a file that begins with crowd"),
        (CROWD + "a.jpg\tb.jpg#1\t0.5\t1\t2\n", "line 4: 0.5 1 2 is neither"),
        (CROWD + "a.jpg\tb.jpg#1\t-1\t-1\t2\n", "line 4: -1 -1 2 is neither"),
        (CROWD + "a.jpg\tb.jpg#1\t2\t2\t-1\n", "line 4: 2 2 -1 is neither"),
        (CROWD + "a.jpg\tb.jpg#1\t0.6\t1.5\t1\n", "line 4: 0.6 1.5 1 is neither"),
        (CROWD + "a.jpg\tb.jpg#1\t0.75\t1.5\t0.5\n", "line 4: 0.75 1.5 0.5 is neither"),
        (EXPERT + "a.jpg\tb.jpg#x\t1\t1\t2\n", "line 3: caption 'b.jpg#x', expected FILE#n"),
        (EXPERT + "a.jpg\t#1\t1\t1\t2\n", "line 3: caption '#1', expected FILE#n"),
        (EXPERT + "\tb.jpg#1\t1\t1\t2\n", "line 3: no image."),
        (
            "\n" + EXPERT + "a.jpg\tb.jpg#0\t1\t1\t2\n",
            "line 4: rates image 'a.jpg' with caption 'b.jpg#0', as line 2 does",
        ),
        (EXPERT + "a.jpg\tb.jpg#0\t1\t2\t2\n", "line 3: rates image 'a.jpg' with caption 'b.jpg#0', as line 1 does"),
        (
            "image_id,caption_id\n",
            "the header is 'image_id, caption_id'. Give one that names image_id, caption_id, rating.",
        ),
        ("image_id,caption_id,rating\n", "a header and no rating."),
        (TABLE + "9,a.jpg,18\n", "line 4: 3 fields, but the header has 4."),
        (TABLE + "9,a.jpg,18,\n", "line 4: found '', expected a finite number."),
        (TABLE + "9,a.jpg,18,inf\n", "line 4: found 'inf', expected a finite number."),
        (TABLE + "9,a.jpg,-1,1\n", "line 4: caption '-1', expected FILE#n"),
        (TABLE + "9,a.jpg,1 8,1\n", "line 4: caption '1 8', expected FILE#n"),
        (TABLE + "9,a.jpg,٣,1\n", "line 4: caption '٣', expected FILE#n"),
        (TABLE + "9,a.jpg,17,3\n", "line 4: rates image 'a.jpg' with caption '17', as line 2 does"),
        (TABLE + '"9,a.jpg,17,3\n', "line 4: no table row"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: not UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert error_of(tmp_path, text).startswith(words)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tsv: cannot be read \(No such file or directory\)"):
        read_ratings(tmp_path / "none.tsv")


IMAGE_IDS = ["b.jpg", "a.jpg", "c.jpg"]
CAPTION_IDS = np.array([31, 12, 30, 11, 10])
CAPTION_IMAGE = np.array([0, 1, 0, 1, 1])  # c.jpg has none


def test_captions_are_counted_in_the_order_of_their_ids() -> None:
    found = resolve(
        ratings_of(
            ("a.jpg", "b.jpg#0", 1),
            ("b.jpg", "b.jpg#1", 2),
            ("c.jpg", "a.jpg#2", 3),
            ("a.jpg", "10", 4),
            ("b.jpg", "12", 5),
        ),
        IMAGE_IDS,
        CAPTION_IDS,
        CAPTION_IMAGE,
    )
    assert found.image_rows.tolist() == [1, 0, 2, 1, 0]
    assert found.caption_rows.tolist() == [2, 0, 1, 4, 1]
    assert found.image_rows.dtype == found.caption_rows.dtype == np.int64
    assert found.ratings.tolist() == [1, 2, 3, 4, 5]
    assert found.own.tolist() == [False, True, False, True, False]
    assert found.missing == 0


def test_what_is_not_in_the_split_is_counted() -> None:
    found = resolve(
        ratings_of(
            ("x.jpg", "b.jpg#0", 1),  # no such image
            ("a.jpg", "x.jpg#0", 2),  # no such captioned image
            ("a.jpg", "b.jpg#2", 3),  # too few captions
            ("a.jpg", "c.jpg#0", 3),  # no caption
            ("a.jpg", "13", 4),  # no such id
            ("a.jpg", "9999999999999999999", 4),
            ("c.jpg", "11", 5),
        ),
        IMAGE_IDS,
        CAPTION_IDS,
        CAPTION_IMAGE,
    )
    assert (found.image_rows.tolist(), found.caption_rows.tolist(), found.ratings.tolist()) == ([2], [3], [5.0])
    assert found.missing == 6


def test_captions_of_an_incomplete_image_are_named_by_id_only() -> None:
    given_ = ratings_of(("a.jpg", "a.jpg#0", 1), ("a.jpg", "b.jpg#0", 2), ("c.jpg", "10", 3))
    found = resolve(given_, IMAGE_IDS, CAPTION_IDS, CAPTION_IMAGE, incomplete=["a.jpg"])
    assert (found.ratings.tolist(), found.missing) == ([2.0, 3.0], 1)  # a.jpg may still be the rated image


def test_another_dataset_is_told_by_an_example_of_each_side() -> None:
    words = (
        "expert ratings: none of 1 is of an image and a caption of this split. They rate image '7' with caption '7#0'; "
        "the split holds image 'b.jpg' and caption id 31. Are they of another dataset or split?"
    )
    with pytest.raises(InputError, match=f"^{re.escape(words)}$"):
        resolve(ratings_of(("7", "7#0", 1)), IMAGE_IDS, CAPTION_IDS, CAPTION_IMAGE)
    none = np.zeros(0, np.int64)
    with pytest.raises(InputError, match="the split holds no image and no caption"):
        resolve(ratings_of(("7", "7#0", 1)), [], none, none)


def test_one_caption_under_two_names_is_refused() -> None:
    given_ = ratings_of(("c.jpg", "b.jpg#0", 1), ("a.jpg", "30", 1), ("c.jpg", "30", 2))
    with pytest.raises(InputError, match=r"'b\.jpg#0' and '30' are one caption, rated twice for image 'c\.jpg'"):
        resolve(given_, IMAGE_IDS, CAPTION_IDS, CAPTION_IMAGE)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_resolving_equals_looking_up_one_by_one(data) -> None:
    images = data.draw(st.integers(1, 4))
    caption_image = data.draw(st.lists(st.integers(0, images - 1), min_size=1, max_size=12))
    caption_ids = data.draw(
        st.lists(st.integers(0, 40), min_size=len(caption_image), max_size=len(caption_image), unique=True)
    )
    names = [f"i{index}" for index in range(images)]
    incomplete = data.draw(st.sets(st.sampled_from([*names, "other"])))
    name = st.sampled_from([*names, "other"])
    key = st.one_of(st.integers(0, 40).map(str), st.tuples(name, st.integers(0, 7)).map(lambda p: f"{p[0]}#{p[1]}"))
    pairs = data.draw(st.lists(st.tuples(name, key), min_size=1, max_size=20, unique=True))

    expected = []
    for index, (image, caption) in enumerate(pairs):
        file, _, n = caption.rpartition("#")
        if file:
            own = sorted(i for i, row in zip(caption_ids, caption_image, strict=True) if f"i{row}" == file)
            wanted = own[int(n)] if int(n) < len(own) and file not in incomplete else None
        else:
            wanted = int(n)
        if image in names and wanted in caption_ids:
            row = caption_ids.index(wanted)
            expected.append((names.index(image), row, float(index), caption_image[row] == names.index(image)))

    def run():
        given_ = ratings_of(*((image, caption, index) for index, (image, caption) in enumerate(pairs)))
        return resolve(given_, names, np.array(caption_ids), np.array(caption_image), incomplete)

    if not expected or len({pair[:2] for pair in expected}) < len(expected):
        with pytest.raises(InputError, match="twice" if expected else "none of"):
            run()
        return
    found = run()
    rows = zip(*(a.tolist() for a in (found.image_rows, found.caption_rows, found.ratings, found.own)), strict=True)
    assert [*rows] == expected
    assert found.missing == len(pairs) - len(expected)


@pytest.mark.needs("data")
@pytest.mark.parametrize(
    ("name", "rows", "own", "images", "levels"), [("expert", 1538, 82, 492, 10), ("crowd", 12052, 352, 495, 11)]
)
def test_ratings_of_flickr8k_resolve_in_its_test_split(
    shared_data: Path, name: str, rows: int, own: int, images: int, levels: int
) -> None:
    folder = shared_data / "data" / "flickr8k_3k"
    entries = [e for e in json.loads((folder / "annotations.json").read_text())["images"] if e["split"] == "test"]
    ids = np.array([s["sentid"] for e in entries for s in e["sentences"]])
    image = np.repeat(np.arange(len(entries)), [len(e["sentences"]) for e in entries])

    ratings = read_ratings(folder / f"{name}_ratings.tsv")
    found = resolve(ratings, [e["filename"] for e in entries], ids, image)

    assert (ratings.name, len(ratings.ratings), found.missing, int(found.own.sum())) == (name, rows, 0, own)
    assert len(set(ratings.image_ids)) == images
    assert len(np.unique(ratings.ratings)) == levels
    assert found.ratings[found.own].mean() > found.ratings[~found.own].mean() + 0.4


def test_caption_pairs_hold_quotes_commas_and_line_ends(tmp_path: Path) -> None:
    first, second = ["a, b", 'the word "stop"', "two\nlines "], ["", "c", "d"]
    second[0] = "x"
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["score", "sentence1", "genre", "sentence2"]])
        csv.writer(file).writerows([[n / 2, a, "g", b] for n, (a, b) in enumerate(zip(first, second, strict=True))])
    found = read_caption_pairs(path)
    assert (found.first, found.second, found.scores.tolist()) == (first, second, [0.0, 0.5, 1.0])
    assert (found.name, found.sha256) == ("pairs", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "",
            "the header is ''. Give one that names caption_a, caption_b, human_score, or sentence1, sentence2, score.",
        ),
        (
            "caption_a,caption_b,score\na,b,1\n",
            "the header is 'caption_a, caption_b, score'. Give one that names caption_a",
        ),
        ("caption_a,caption_b,human_score\n", "a header and no pair."),
        ("caption_a,caption_b,human_score\na,b,1\na,b\n", "line 3: 2 fields, but the header has 3."),
        ("caption_a,caption_b,human_score\na,b,1\na,b,c,1\n", "line 3: 4 fields, but the header has 3."),
        ('caption_a,caption_b,human_score\n"a\nb",c,1\na,b,nan\n', "line 4: found 'nan', expected a finite number."),
        ("caption_a,caption_b,human_score\na, ,1\n", "line 2: a caption is empty."),
        ('caption_a,caption_b,human_score\na,b,1\n"a,b,1\na,b,2\n', "line 3: no table row"),
        (b"\x1f\x8b\0", "damaged gzip"),
    ],
)
def test_wrong_caption_pairs_are_named_with_file_and_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = write(tmp_path, text, "p.csv")
    with pytest.raises(InputError) as caught:
        read_caption_pairs(path)
    assert str(caught.value).startswith(f"{path}: {words}")


@pytest.mark.needs("data")
def test_crisscrossed_captions_are_read_whole(shared_data: Path) -> None:
    path = shared_data / "data" / "cxc_sts_val.csv.gz"
    found = read_caption_pairs(path)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        expected = [(r["caption_a"], r["caption_b"], float(r["human_score"])) for r in csv.DictReader(file)]
    assert [*zip(found.first, found.second, found.scores.tolist(), strict=True)] == expected
    assert len(expected) == 3309
    assert (found.name, float(found.scores.min()), float(found.scores.max())) == ("cxc_sts_val", 0.0, 5.0)
