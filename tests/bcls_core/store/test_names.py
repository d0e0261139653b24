from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.errors import StoreError
from bcls_core.store import part_path
from bcls_core.store.names import check_file_path, check_name, check_path


@pytest.mark.parametrize("name", ["corpus", "0a1b2c", "v1.2_x-3"])
def test_good_names(name: str) -> None:
    assert check_name("kind", name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "_work", "-x", "a b", "a\n", "publications", "leases", "current"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(StoreError, match="kind"):
        check_name("kind", name)


@pytest.mark.parametrize(
    "path", ["a", "a/b.json", "1_Pooling/config.json", "truth/scène.npz", "a/manifest.json", "x/_y", ".hidden"]
)
def test_good_paths(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "./a",
        "a/.",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "a\\b",
        "..\\a",
        "C:\\a",
        "a\x00b",
        "a\nb",
        "manifest.json",
        "sidecar.json",
        "_work/entries/a.json",
        "_gone",
        "a*",
        "a?",
        "a[0]",
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        check_path(path)


@given(st.text(alphabet="ab./\\_", max_size=12))
def test_an_accepted_path_stays_inside_and_is_spelled_one_way(path: str) -> None:
    try:
        check_path(path)
    except StoreError:
        return
    resolved = posixpath.normpath(posixpath.join("/root/version", path))
    assert resolved == f"/root/version/{path}"


def test_parts_are_numbered_with_at_least_five_digits() -> None:
    assert part_path("captions", 3) == "captions/part-00003.parquet"
    assert part_path("caption_embeddings/minilm", 123_456) == "caption_embeddings/minilm/part-123456.parquet"
    with pytest.raises(StoreError, match="negative"):
        part_path("captions", -1)


def test_a_plain_file_cannot_take_the_name_of_a_part() -> None:
    assert check_file_path("captions/notes.txt") == "captions/notes.txt"
    with pytest.raises(StoreError, match="named like a part"):
        check_file_path("captions/part-00000.parquet")
