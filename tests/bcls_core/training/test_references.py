"""What an evaluation is given beside the corpus: read once, told apart by digest, refused with file and line."""

from __future__ import annotations

import gzip
import json
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.config import EvaluateSettings
from bcls_core.errors import InputError
from bcls_core.training.references import References, read_image_groups

EXPERT = "a.jpg\tb.jpg#0\t1\t2\t2\na.jpg\ta.jpg#4\t4\t4\t4\n"
CROWD = "a.jpg\tb.jpg#0\t0.25\t1\t3\n"
TABLE = "image_id,caption_id,rating\na.jpg,17,-2.5\n"
PAIRS = 'sentence1,sentence2,score\n"a dog, running",a cat,3.5\n'
GROUPS = 'image_id,group,colour\na.jpg,boats,red\n"b,c.jpg",boats,\nd.jpg,trees,green\n'


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_coco(folder: Path, last_answer: int = 5) -> Path:
    """Five images with a caption each, the smallest that has the five folds; `last_answer` is an image, for CxC."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "coco_test_ids.npy", np.array([11, 12, 13, 14, 15]))
    for name in ("original", "cxc", "eccv"):
        answers = {caption: [caption - 10] for caption in range(11, 16)}
        if name == "cxc":
            answers[15] = [last_answer]
        (folder / f"{name}_caption_to_image.json").write_text(json.dumps(answers))
        own = {image: [image + 10] for image in range(1, 6)}
        (folder / f"{name}_image_to_caption.json").write_text(json.dumps(own))
    return folder


def settings(**named: Any) -> EvaluateSettings:
    return EvaluateSettings(**named)


def everything(folder: Path) -> EvaluateSettings:
    return settings(
        ratings=[write(folder, "e.tsv", EXPERT), write(folder, "c.tsv", CROWD), write(folder, "own.csv", TABLE)],
        caption_ratings=[write(folder, "sts.csv.gz", gzip.compress(PAIRS.encode(), mtime=0))],
        image_groups=write(folder, "groups.csv", GROUPS),
        coco=str(write_coco(folder / "coco")),
    )


def test_nothing_named_is_nothing_read() -> None:
    for found in (References.read(settings()), References()):
        assert not found.ratings
        assert not found.caption_pairs
        assert (found.image_groups, found.coco, found.digests) == (None, None, {})


def test_every_kind_is_read_and_has_its_digest(tmp_path: Path) -> None:
    named = everything(tmp_path)
    found = References.read(named)
    assert [rated.name for rated in found.ratings] == ["expert", "crowd", "own"]
    assert [rated.ratings.tolist() for rated in found.ratings] == [[5 / 3, 4.0], [0.25], [-2.5]]
    assert [(p.name, p.first, p.second, p.scores.tolist()) for p in found.caption_pairs] == [
        ("sts", ["a dog, running"], ["a cat"], [3.5])
    ]
    assert found.image_groups == {"a.jpg": "boats", "b,c.jpg": "boats", "d.jpg": "trees"}
    assert found.coco is not None
    assert found.coco.captions.values.tolist() == [11, 12, 13, 14, 15]
    files = {
        "ratings/expert": "e.tsv",
        "ratings/crowd": "c.tsv",
        "ratings/own": "own.csv",
        "caption_ratings/sts": "sts.csv.gz",
        "image_groups": "groups.csv",
    }
    of_files = {name: sha256((tmp_path / file).read_bytes()).hexdigest() for name, file in files.items()}
    assert dict(found.digests) == of_files | {"coco": found.coco.sha256}


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("e.tsv", "ratings/expert"),
        ("c.tsv", "ratings/crowd"),
        ("own.csv", "ratings/own"),
        ("sts.csv.gz", "caption_ratings/sts"),
        ("groups.csv", "image_groups"),
    ],
)
def test_a_byte_more_is_another_digest_and_of_that_file_alone(tmp_path: Path, file: str, kind: str) -> None:
    named = everything(tmp_path)
    before = dict(References.read(named).digests)
    assert References.read(named).digests == before
    path = tmp_path / file
    plain = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(plain) + b"\n", mtime=0) if file.endswith("gz") else plain + b"\n")
    after = References.read(named).digests
    assert {name for name in before if before[name] != after[name]} == {kind}


def test_the_digest_of_coco_is_of_what_it_says(tmp_path: Path) -> None:
    first = References.read(settings(coco=str(write_coco(tmp_path / "one")))).digests
    moved = References.read(settings(coco=str(write_coco(tmp_path / "two")))).digests
    other = References.read(settings(coco=str(write_coco(tmp_path / "three", last_answer=4)))).digests
    assert first == moved
    assert first != other


def test_where_files_lie_and_what_they_are_called_does_not_matter(tmp_path: Path) -> None:
    found = [References.read(settings(ratings=[write(tmp_path, name, EXPERT)])) for name in ("x.tsv", "y/z.csv")]
    assert found[0].digests == found[1].digests


@pytest.mark.parametrize(
    ("kind", "names", "content", "shared"),
    [
        ("ratings", ("a.tsv", "b.tsv"), EXPERT, "expert"),
        ("ratings", ("one/r.csv", "two/r.csv.gz"), TABLE, "r"),
        ("ratings", ("a b.csv", "a_b.csv"), TABLE, "a_b"),
        ("caption_ratings", ("one/sts.csv", "two/sts.csv"), PAIRS, "sts"),
    ],
)
def test_two_sets_of_one_name_are_refused(
    tmp_path: Path, kind: str, names: tuple[str, str], content: str, shared: str
) -> None:
    paths = [write(tmp_path, name, content) for name in names]
    with pytest.raises(InputError, match=f"^{kind}: two files give the name '{shared}'. Rename one"):
        References.read(settings(**{kind: paths}))


def test_one_name_in_two_kinds_is_two_sets(tmp_path: Path) -> None:
    ratings, pairs = write(tmp_path, "one/judged.csv", TABLE), write(tmp_path, "two/judged.csv", PAIRS)
    found = References.read(settings(ratings=[ratings], caption_ratings=[pairs]))
    assert sorted(found.digests) == ["caption_ratings/judged", "ratings/judged"]


def test_it_travels_to_another_process(tmp_path: Path) -> None:
    found = References.read(everything(tmp_path))
    there = pickle.loads(pickle.dumps(found))  # noqa: S301 - made a line before
    assert there.digests == found.digests
    assert there.image_groups == found.image_groups
    assert there.coco.sha256 == found.coco.sha256
    for kind in ("ratings", "caption_pairs"):
        for ours, theirs in zip(getattr(there, kind), getattr(found, kind), strict=True):
            assert {name: np.array(value).tolist() for name, value in vars(ours).items()} == {
                name: np.array(value).tolist() for name, value in vars(theirs).items()
            }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the header is ''. Give one that names image_id, group."),
        ("image_id,group\n", "a header and no image."),
        ("image_id,group\n\n\n", "a header and no image."),
        ("image_id,class\na,1\n", "the header is 'image_id, class'."),
        ("image_id\tgroup\na\t1\n", "Give one that names image_id, group."),
        ("image_id,group,group\na,1,2\n", "the header names group 2 times."),
        ("image_id,group\na,1\n,2\n", "line 3: image_id or group is empty."),
        ("image_id,group\n\na,\n", "line 3: image_id or group is empty."),
        ('image_id,group\n"a\nb",1\nc,\n', "line 4: image_id or group is empty."),
        ("image_id,group\na,1\nb,2\na,1\n", "line 4: image 'a' is there twice."),
        ("image_id,group\na,1,2\n", "line 2: 3 fields, but the header has 2."),
        ("image_id,group\na\n", "line 2: 1 fields, but the header has 2."),
        ('image_id,group\n"a,1\n', "line 2: no table row"),
        (b"image_id,group\na,\xff\n", "line 2: not UTF-8"),
        (b"image_id,group\na,1\0\n", "line 2: a zero byte."),
        (b"\x1f\x8b\x08broken", "damaged gzip"),
    ],
)
def test_groups_that_cannot_be_used_name_file_and_line(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = write(tmp_path, "groups.csv", content)
    with pytest.raises(InputError) as caught:
        References.read(settings(image_groups=path))
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_groups_with_a_byte_order_mark_dos_lines_and_gzip_are_the_same_groups(tmp_path: Path) -> None:
    plain = read_image_groups(write(tmp_path, "plain.csv", GROUPS))
    mark = b"\xef\xbb\xbf" + GROUPS.replace("\n", "\r\n").encode()
    for other in (write(tmp_path, "mark.csv", mark), write(tmp_path, "packed.csv", gzip.compress(GROUPS.encode()))):
        groups, digest = read_image_groups(other)
        assert groups == plain[0]
        assert digest != plain[1]


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        (
            "ratings",
            "image_id,caption_id,rating\na,1,2\na,1,2\n",
            "line 3: rates image 'a' with caption '1', as line 2",
        ),
        ("ratings", "image_id,caption_id,rating\na,1,nan\n", "line 2: found 'nan', expected a finite number"),
        ("caption_ratings", PAIRS + " ,a cat,1\n", "line 3: a caption is empty"),
        ("caption_ratings", TABLE, "the header is 'image_id, caption_id, rating'"),
    ],
)
def test_ratings_that_cannot_be_used_name_file_and_line(tmp_path: Path, kind: str, content: str, said: str) -> None:
    good = write(tmp_path, "good.csv", TABLE if kind == "ratings" else PAIRS)
    path = write(tmp_path, "bad.csv", content)
    with pytest.raises(InputError) as caught:
        References.read(settings(**{kind: [good, path]}))
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize("kind", ["ratings", "caption_ratings", "image_groups", "coco"])
def test_what_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "nowhere"
    named: Any = {"image_groups": path, "coco": str(path)}.get(kind, [path])
    with pytest.raises(InputError, match=f"^{path}.*cannot be read"):
        References.read(settings(**{kind: named}))


@pytest.mark.needs("data")
def test_the_published_files(shared_data: Path) -> None:
    data = shared_data / "data"
    found = References.read(
        settings(
            ratings=[data / "flickr8k_3k" / name for name in ("expert_ratings.tsv", "crowd_ratings.tsv")],
            caption_ratings=[data / "cxc_sts_val.csv.gz"],
            coco=str(data / "eccv_caption"),
        )
    )
    assert sorted(found.digests) == ["caption_ratings/cxc_sts_val", "coco", "ratings/crowd", "ratings/expert"]
    for rated, file in zip(found.ratings, ("expert_ratings.tsv", "crowd_ratings.tsv"), strict=True):
        rows = [line.split("\t") for line in (data / "flickr8k_3k" / file).read_text().splitlines()]
        assert list(zip(rated.image_ids, rated.caption_keys, strict=True)) == [(row[0], row[1]) for row in rows]
    assert found.coco is not None
    assert (len(found.coco.images), len(found.coco.captions)) == (5000, 25000)


@pytest.mark.needs("data")
def test_the_ground_truth_of_the_package_is_that_of_the_folder(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCLS_DATA", str(shared_data))  # looked at where the package is not installed
    by_name = References.read(settings(coco="package")).digests
    assert by_name == References.read(settings(coco=str(shared_data / "data" / "eccv_caption"))).digests
