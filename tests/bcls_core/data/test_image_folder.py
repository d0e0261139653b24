from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bcls_core.data.image_folder import read_inside
from bcls_core.data.rejects import Reason
from bcls_core.errors import CorpusError

LIMIT = 1_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, a file in a sub-folder, and a secret beside it."""
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "a.jpg").write_bytes(b"content a")
    (tmp_path / "images" / "sub" / "b.jpg").write_bytes(b"content b")
    return tmp_path / "images"


def read(folder: Path, *paths: str) -> bytes | Reason:
    return read_inside(folder, paths, max_bytes=LIMIT)


@pytest.mark.parametrize("path", ["a.jpg", "./a.jpg", "sub/b.jpg", "sub//b.jpg"])
def test_files_inside_are_read(folder: Path, path: str) -> None:
    assert read(folder, path) == (b"content b" if "b.jpg" in path else b"content a")


def test_the_first_path_that_exists_counts(folder: Path) -> None:
    assert read(folder, "nowhere/a.jpg", "a.jpg") == b"content a"
    assert read(folder, "sub/b.jpg", "a.jpg") == b"content b"
    assert read(folder, "nowhere/a.jpg", "c.jpg") is Reason.MISSING


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("c.jpg", Reason.MISSING),
        ("a.jpg/c.jpg", Reason.MISSING),
        ("../secret.jpg", Reason.LEAVES_THE_FOLDER),
        ("sub/../../secret.jpg", Reason.LEAVES_THE_FOLDER),
        ("sub/../a.jpg", Reason.LEAVES_THE_FOLDER),
        ("/etc/hostname", Reason.LEAVES_THE_FOLDER),
        ("sub", Reason.UNREADABLE),
        ("n" * 300 + ".jpg", Reason.UNREADABLE),
        ("", Reason.INVALID_FILE_NAME),
        (".", Reason.INVALID_FILE_NAME),
        ("a\0.jpg", Reason.INVALID_FILE_NAME),
        ("\ud800/a.jpg", Reason.INVALID_FILE_NAME),
    ],
)
def test_other_paths_give_the_reason(folder: Path, path: str, reason: Reason) -> None:
    assert read(folder, path) is reason


def test_an_escape_is_not_hidden_by_a_second_path_that_exists(folder: Path) -> None:
    assert read(folder, "../secret.jpg", "a.jpg") is Reason.LEAVES_THE_FOLDER


def test_links_are_not_followed_wherever_they_lead(folder: Path) -> None:
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    (folder / "dangling.jpg").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "up").symlink_to(folder.parent)
    (folder / "linked").symlink_to(folder / "sub")

    for path in ("out.jpg", "in.jpg", "dangling.jpg", "loop", "up/secret.jpg", "linked/b.jpg"):
        assert read(folder, path) is Reason.SYMLINK, path


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)

    assert read(folder.parent / "link", "a.jpg") == b"content a"


def test_empty_and_huge_files_are_not_read(folder: Path) -> None:
    (folder / "empty.jpg").touch()
    (folder / "limit.jpg").write_bytes(bytes(LIMIT))
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(2**40)

    assert read(folder, "empty.jpg") is Reason.EMPTY_FILE
    assert read(folder, "limit.jpg") == bytes(LIMIT)
    assert read(folder, "huge.jpg") is Reason.FILE_TOO_LARGE


def test_a_named_pipe_does_not_block(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")

    assert read(folder, "pipe.jpg") is Reason.UNREADABLE


def test_a_file_without_permission_is_unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_to_open(monkeypatch, "a.jpg", errno.EACCES)

    assert read(folder, "a.jpg") is Reason.UNREADABLE


def test_trouble_of_the_machine_is_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_to_open(monkeypatch, "a.jpg", errno.EMFILE)

    with pytest.raises(OSError, match="Too many open files"):
        read(folder, "a.jpg")


def test_a_folder_that_is_none_is_an_error(folder: Path) -> None:
    for wrong in (folder / "a.jpg", folder / "nowhere"):
        with pytest.raises(CorpusError, match=r"image folder cannot be opened .*ingest\.images"):
            read(wrong, "a.jpg")


def test_no_file_stays_open(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("a.jpg", "sub/b.jpg", "c.jpg", "sub", "../x"):
        read(folder, path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def _fail_to_open(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    original = os.open

    def fail(path: object, *arguments: object, **options: object) -> int:
        if path == name:
            raise OSError(number, os.strerror(number), name)
        return original(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fail)
