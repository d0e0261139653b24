"""Durable writing on a disk, whole objects elsewhere, and one behaviour for both."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from bcls_core.errors import StoreError
from bcls_core.store import Store
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.object_store import ObjectFilesystem


@pytest.fixture
def files(store: Store) -> Filesystem:
    return store.filesystem


@pytest.fixture
def local(tmp_path: Path) -> Filesystem:
    return Store(tmp_path / "data").filesystem


def test_what_is_written_is_read(files: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"copied")
    written, copied = files.write("a/b", b"content"), files.copy_in("a/c/d", tmp_path / "source")
    assert files.read("a/b") == b"content"
    assert files.read("a/c/d") == b"copied"
    assert files.files("a") == {"b": 7, "c/d": 6}
    assert (files.names("a"), files.folders("a"), files.names("nothing")) == (["b"], ["c"], [])
    assert [files.hash("a/b"), files.hash("a/c/d")] == [written.sha256, copied.sha256]
    assert written.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"  # coreutils' sha256sum
    assert (written.size, copied.size) == (7, 6)
    assert [files.stamp("a/b"), files.stamp("a/c/d")] == [written.stamp, copied.stamp]


def test_writing_again_replaces_and_stamps_anew(files: Filesystem) -> None:
    first, second = files.write("a", b"x"), files.write("a", b"x")
    assert first.stamp != second.stamp == files.stamp("a")
    assert files.write("a", b"longer").size == len(files.read("a"))


def test_on_disks_a_file_gets_another_name_for_the_same_content(local: Filesystem) -> None:
    first = local.write("a/b", b"content")
    for _ in range(2):  # the second time over itself
        assert local.name_again("c/d", "a/b", b"content") == first
        assert local.files("") == {"a/b": 7, "c/d": 7}
        assert Path(local.full("c/d")).samefile(local.full("a/b"))
    local.write("e", b"else")
    assert local.name_again("e", "a/b", b"content") == first
    assert local.read("e") == b"content"
    local.write("c/d", b"other")
    assert local.read("a/b") == b"content", "a name that is written again leaves the other alone"
    local.remove_file("a/b")
    assert local.read("e") == b"content"


def test_another_name_is_given_to_the_same_content_alone(files: Filesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write("a", b"content")
    assert files.name_again("b", "a", b"another") is None
    assert files.name_again("b", "nothing", b"content") is None
    assert files.name_again("b", "a", b"content", staging="no such folder") is None
    monkeypatch.setattr(os, "link", _too_many_names)
    assert files.name_again("b", "a", b"content") is None
    assert files.files("") == {"a": 7}


def test_a_link_to_elsewhere_is_no_file_to_share(local: Filesystem, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"content")
    local.make_folder("a")
    Path(local.full("a/b")).symlink_to(tmp_path / "elsewhere")
    assert local.name_again("c", "a/b", b"content") is None
    assert not local.exists("c")


def _too_many_names(*_: object) -> None:
    raise OSError(errno.EMLINK, "Too many links")


def test_only_the_first_creation_wins(files: Filesystem) -> None:
    assert files.put_if_absent("a/b", b"first")
    assert not files.put_if_absent("a/b", b"second")
    assert files.read("a/b") == b"first"


def test_removing_a_tree_twice_is_fine(files: Filesystem) -> None:
    files.write("a/b", b"")
    files.write("ab", b"")
    files.remove_tree("a")
    files.remove_tree("a")
    assert files.files("") == {"ab": 0}


def test_missing_files_are_missing(files: Filesystem) -> None:
    for read in (files.read, files.hash, files.stamp, files.open):
        with pytest.raises(FileNotFoundError):
            read("a/b")
    assert files.files("a") == {}
    assert not files.exists("a")


def test_it_travels_to_other_processes(files: Filesystem) -> None:
    files.write("a", b"x")
    assert pickle.loads(pickle.dumps(files)).read("a") == b"x"  # noqa: S301


def test_of_many_creators_one_wins_with_all_its_bytes(local: Filesystem) -> None:
    contents = [bytes([number]) * 200_000 for number in range(8)]
    barrier = threading.Barrier(len(contents))

    def create(content: bytes) -> bool:
        barrier.wait()
        return local.put_if_absent("a", content)

    with ThreadPoolExecutor(len(contents)) as pool:
        won = list(pool.map(create, contents))
    assert sum(won) == 1
    assert local.read("a") == contents[won.index(True)]
    assert list(local.files("")) == ["a"]


class Killed(BaseException):
    """Stands for the death of the process: no `except Exception` catches it."""


Stop = Callable[[str], list[str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """`calls(name)` records the system calls from then on and dies at the one called `name`."""

    def start(deadly: str) -> list[str]:
        seen: list[str] = []

        def spy(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")  # noqa: PTH112
                seen.append("fsync folder" if folder else name)
                if seen[-1] == deadly:
                    raise Killed
                return real(*args, **kwargs)

            return call

        for name in ("fsync", "link", "replace", "rename", "unlink"):
            monkeypatch.setattr(os, name, spy(name, getattr(os, name)))
        return seen

    return start


@pytest.mark.parametrize("deadly", ["fsync", "replace", "unlink", "fsync folder"])
def test_a_killed_replacement_leaves_old_or_new(local: Filesystem, calls: Stop, deadly: str) -> None:
    local.write("a", b"old" * 1000)
    calls(deadly)
    with pytest.raises(Killed):
        local.write("a", b"new" * 2000)
    assert local.read("a") in (b"old" * 1000, b"new" * 2000)


@pytest.mark.parametrize("deadly", ["fsync", "link", "unlink", "fsync folder"])
def test_a_killed_creation_leaves_nothing_or_all(local: Filesystem, calls: Stop, deadly: str) -> None:
    local.write("other", b"")
    calls(deadly)
    with pytest.raises(Killed):
        local.put_if_absent("a", b"new" * 2000)
    assert not local.exists("a") or local.read("a") == b"new" * 2000


def test_content_is_flushed_before_its_name_and_the_folder_after(local: Filesystem, calls: Stop) -> None:
    local.write("folder/other", b"")
    seen = calls("never")
    local.write("folder/a", b"content")
    local.put_if_absent("folder/b", b"content")
    relevant = [name for name in seen if name != "unlink"]
    assert relevant == ["fsync", "replace", "fsync folder", "fsync", "link", "fsync folder"]


def test_new_folders_are_flushed_into_their_parents(local: Filesystem, calls: Stop) -> None:
    seen = calls("never")
    local.write("a/b/c", b"")
    assert seen.count("fsync folder") == 4  # data/ into tmp_path, a into data/, b into a, c into b


def test_without_its_staging_folder_nothing_is_written(local: Filesystem) -> None:
    for write in (local.write, local.put_if_absent):
        with pytest.raises(FileNotFoundError):
            write("a", b"x", staging="staging")
    local.make_folder("staging")
    local.write("a", b"x", staging="staging")
    assert local.put_if_absent("b", b"x", staging="staging")
    assert local.files("") == {"a": 1, "b": 1}


def test_a_writer_paused_before_its_last_step_is_stopped(local: Filesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    local.make_folder("work/staging")
    local.make_folder("aside")
    real = Path.replace

    def paused(self: Path, target: Path) -> Path:
        local.set_aside("work/staging", "aside")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", paused)
    with pytest.raises(FileNotFoundError):
        local.write("a", b"late", staging="work/staging")
    assert not local.exists("a")


def test_setting_aside_needs_a_place_but_not_a_thing(local: Filesystem) -> None:
    local.write("a", b"x")
    with pytest.raises(FileNotFoundError):
        local.set_aside("a", "aside")
    local.make_folder("aside")
    local.set_aside("a", "aside")
    local.set_aside("a", "aside")
    assert not local.exists("a")


def test_a_lost_answer_of_a_link_that_succeeded_counts_as_success(
    local: Filesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "retried over the network")

    monkeypatch.setattr(os, "link", link)
    assert local.put_if_absent("a", b"x")


def test_a_disk_without_hard_links_is_refused(local: Filesystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="cannot make hard links"):
        local.put_if_absent("a", b"x")


def test_a_place_that_cannot_create_exclusively_is_refused() -> None:
    class Careless(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "careless"

    with pytest.raises(StoreError, match="Careless cannot put an object only if it is absent"):
        ObjectFilesystem(Careless(), "bucket")


def test_urls_name_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = uuid.uuid4().hex
    assert Store("data").url == str(tmp_path / "data")
    assert Store(f"file://{tmp_path}/data").url == str(tmp_path / "data")
    assert Store(f"memory://{name}/x/").url == f"memory:///{name}/x"
