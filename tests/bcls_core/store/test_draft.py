from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bcls_core.errors import StoreError
from bcls_core.store import Artifact, Draft, Store

MakeTable = Callable[..., Any]
MakeVersion = Callable[..., Artifact]


def test_files_are_there_for_the_draft_and_for_nobody_else(store: Store, captions: MakeTable, tmp_path: Path) -> None:
    draft = store.draft("corpus", "v1")
    local = tmp_path / "model"
    (local / "deep").mkdir(parents=True)
    (local / "weights").write_bytes(b"w")
    (local / "deep" / "config").write_bytes(b"c")
    draft.write_table("captions", 0, captions(0, 10))
    draft.write_bytes("notes.txt", b"hello")
    draft.add_file("copy", local / "weights")
    assert [entry.path for entry in draft.add_tree("model", local)] == ["model/deep/config", "model/weights"]
    assert draft.read_table("captions", 0).equals(captions(0, 10))
    assert draft.open("notes.txt").read() == b"hello"
    assert [(entry.path, entry.size) for entry in draft.entries() if entry.rows is None] == [
        ("copy", 1),
        ("model/deep/config", 1),
        ("model/weights", 1),
        ("notes.txt", 5),
    ]
    assert draft.exists("captions/part-00000.parquet")
    assert not draft.exists("captions/part-00001.parquet")
    assert store.list(unpublished=True) == []
    assert store.find("corpus", "v1") is None


def test_missing_things_are_named(store: Store, tmp_path: Path) -> None:
    draft = store.draft("corpus", "v1")
    for attempt in (
        lambda: draft.open("nothing"),
        lambda: draft.read_table("captions", 0),
        lambda: draft.add_file("a", tmp_path / "nothing"),
        lambda: draft.add_tree("a", tmp_path / "nothing"),
    ):
        with pytest.raises(StoreError, match=r"nothing|captions"):
            attempt()


def test_a_path_is_replaced(store: Store, captions: MakeTable) -> None:
    draft = store.draft("corpus", "v1")
    draft.write_table("captions", 0, captions(0, 10))
    entry = draft.write_table("captions", 0, captions(5, 30))
    assert draft.read_table("captions", 0).equals(captions(5, 30))
    assert draft.entries() == [entry]
    assert entry.rows == 25


def test_what_another_version_has_as_well_takes_no_space(disk: Store, captions: MakeTable) -> None:
    def write(version: str, *shared: Artifact) -> Artifact:
        draft = disk.draft("corpus", version)
        for artifact in shared:
            draft.share_with(artifact)
        draft = pickle.loads(pickle.dumps(draft))  # noqa: S301
        draft.write_table("captions", 0, captions(0, 10))
        draft.write_table("captions", 1, captions(10, 20, word=version))
        draft.write_bytes("note", b"same")
        return draft.commit(fingerprint={"v": version}, schema="corpus/1")

    first = write("v1")
    second, alone = write("v2", first), write("v3")
    files = {a.version: [Path(a.url, entry.path) for entry in a.manifest.files] for a in (first, second, alone)}
    shared = [path.samefile(other) for path, other in zip(files["v1"], files["v2"], strict=True)]
    assert shared == [True, False, True]
    assert not any(path.samefile(other) for path, other in zip(files["v1"], files["v3"], strict=True))
    shutil.rmtree(first.url)
    assert disk.verify(second, deep=True) == []
    assert second.read("captions", 0).equals(captions(0, 10))


def test_damage_is_not_shared(disk: Store, captions: MakeTable) -> None:
    first = disk.draft("corpus", "v1")
    first.write_table("captions", 0, captions(0, 10))
    old = first.commit(fingerprint={}, schema="corpus/1")
    file = Path(old.url) / "captions" / "part-00000.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    draft = disk.draft("corpus", "v2")
    draft.share_with(old)
    draft.write_table("captions", 0, captions(0, 10))
    new = draft.commit(fingerprint={"v": 2}, schema="corpus/1")
    assert disk.verify(new, deep=True) == []
    assert len(disk.verify(old, deep=True)) > 0


def test_a_path_can_be_taken_out(store: Store) -> None:
    draft = store.draft("training", "v1")
    draft.write_bytes("step-1", b"1")
    draft.write_bytes("step-2", b"2")
    draft.remove("step-1")
    draft.remove("step-1")
    assert [entry.path for entry in draft.entries()] == ["step-2"]
    artifact = draft.commit(fingerprint={}, schema="training/1")
    assert [entry.path for entry in artifact.manifest.files] == ["step-2"]
    with pytest.raises(StoreError, match="committed: step-2 stays"):
        draft.remove("step-2")


@pytest.mark.parametrize(
    "path", ["../other/manifest.json", "/etc/passwd", "a\\b", "manifest.json", "_work/entries/a.json"]
)
def test_nothing_is_written_outside_the_draft(store: Store, path: str, tmp_path: Path) -> None:
    draft = store.draft("corpus", "v1")
    (tmp_path / "file").write_bytes(b"x")
    for attempt in (
        lambda: draft.write_bytes(path, b"x"),
        lambda: draft.add_file(path, tmp_path / "file"),
        lambda: draft.add_tree(path, tmp_path),
        lambda: draft.write_table(path, 0, pa.table({"id": [1]})),
        lambda: draft.remove(path),
    ):
        with pytest.raises(StoreError, match="cannot be written"):
            attempt()
    assert draft.entries() == []


def test_marks_outlive_the_draft_object(store: Store) -> None:
    store.draft("corpus", "v1").mark("train/0", {"rows": 3})
    store.draft("corpus", "v1").mark("x" * 300 + "/é", {"rows": [1.5, None]})
    store.draft("corpus", "v1").mark("train/0", {"rows": 4})
    assert store.draft("corpus", "v1").marks() == {"train/0": {"rows": 4}, "x" * 300 + "/é": {"rows": [1.5, None]}}
    with pytest.raises(StoreError, match="is a set"):
        store.draft("corpus", "v1").mark("a", {"rows": {1}})


def test_an_unreadable_mark_means_the_piece_is_done_again(disk: Store, caplog: pytest.LogCaptureFixture) -> None:
    draft = disk.draft("corpus", "v1")
    draft.mark("a", {})
    draft.mark("b", {})
    Path(draft.url, "_work", "marks", "a.json").write_bytes(b"")
    assert draft.marks() == {"b": {}}
    assert "a.json is unreadable" in caplog.text


def test_a_draft_continues_where_it_was(store: Store, captions: MakeTable) -> None:
    store.draft("corpus", "v1").write_table("captions", 0, captions(0, 10))
    draft = store.draft("corpus", "v1")
    draft.write_table("captions", 1, captions(10, 20))
    assert draft.commit(fingerprint={}, schema="corpus/1").manifest.tables["captions"].rows == 20


def test_another_layout_starts_over(store: Store, captions: MakeTable) -> None:
    draft = store.draft("corpus", "v1", layout={"shards": 2})
    draft.write_table("captions", 0, captions(0, 10))
    draft.write_table("captions", 1, captions(10, 20))
    draft.mark("0", {})
    assert len(store.draft("corpus", "v1", layout={"shards": 2}).entries()) == 2
    again = store.draft("corpus", "v1", layout={"shards": 1})
    assert (again.entries(), again.marks()) == ([], {})
    again.write_table("captions", 0, captions(0, 20))
    assert again.commit(fingerprint={}, schema="corpus/1").manifest.tables["captions"].rows == 20


class Killed(BaseException):
    """Stands for the death of the process."""


@pytest.mark.parametrize("removals", range(12))
def test_a_killed_discard_leaves_no_mark_without_its_files(
    store: Store, captions: MakeTable, monkeypatch: pytest.MonkeyPatch, removals: int
) -> None:
    draft = store.draft("corpus", "v1", layout={"shards": 3})
    for part in range(3):
        draft.write_table("captions", part, captions(part, part + 1))
        draft.mark(str(part), {})
    left = removals

    def remove_some(self: Any, path: str) -> None:
        nonlocal left
        for name in self.files(path):
            if left == 0:
                raise Killed
            left -= 1
            self.remove_file(f"{path}/{name}")

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(type(store.filesystem), "remove_tree", remove_some)
        store.draft("corpus", "v1", layout={"shards": 1})
    again = store.draft("corpus", "v1", layout={"shards": 3})
    assert all(again.exists(f"captions/part-0000{part}.parquet") for part in again.marks())
    for part in {"0", "1", "2"} - again.marks().keys():
        again.write_table("captions", int(part), captions(int(part), int(part) + 1))
    assert again.commit(fingerprint={}, schema="corpus/1").manifest.tables["captions"].rows == 3


def test_a_draft_can_be_discarded_but_not_a_version(store: Store, make_version: MakeVersion) -> None:
    draft = store.draft("corpus", "v1")
    draft.write_bytes("a", b"x")
    draft.discard()
    assert store.filesystem.files("corpus") == {}
    artifact = make_version(store, "v2")
    with pytest.raises(StoreError, match="committed and stays"):
        store.draft("corpus", "v2").discard()
    assert store.verify(artifact) == []


def _write_parts(pickled: bytes, parts: range) -> None:
    draft: Draft = pickle.loads(pickled)  # noqa: S301
    for part in parts:
        rows = range(part * 100, part * 100 + 100)
        draft.write_table("t", part, pa.table({"id": pa.array(rows, pa.int64())}))
        draft.mark(f"part-{part}", {"part": part})


def test_many_processes_write_one_draft(disk: Store) -> None:
    draft = disk.draft("corpus", "v1")
    context = multiprocessing.get_context("fork")
    workers = [  # the last two do the same parts
        context.Process(target=_write_parts, args=(pickle.dumps(draft), parts))
        for parts in (range(0, 10, 2), range(1, 10, 2), range(10))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(draft.marks()) == 10
    artifact = draft.commit(fingerprint={}, schema="corpus/1")
    ids = [value for table in artifact.scan("t") for value in table["id"].to_pylist()]
    assert ids == list(range(1000))
    assert disk.verify(artifact, deep=True) == []


def test_after_the_commit_only_the_same_content_is_written(store: Store, captions: MakeTable) -> None:
    early = store.draft("corpus", "v1")
    early.write_table("captions", 0, captions(0, 10))
    early.write_bytes("file", b"x")
    artifact = pickle.loads(pickle.dumps(early)).commit(fingerprint={}, schema="corpus/1")  # noqa: S301
    for late in (early, store.draft("corpus", "v1")):
        assert late.write_bytes("file", b"x").sha256 == artifact.manifest.files[1].sha256
        assert late.write_table("captions", 0, captions(0, 10)).rows == 10
        assert late.write_table("captions", 0, captions(0, 10), row_group_size=3).rows == 10  # other bytes, same rows
        late.mark("piece", {})
        with pytest.raises(StoreError, match=r"committed by another process with sha256 .* this one made sha256"):
            late.write_bytes("file", b"y")
        with pytest.raises(StoreError, match="committed by another process with sha256"):
            late.write_table("captions", 0, captions(0, 9))
        with pytest.raises(StoreError, match=r"with no such file at captions/part-00001.parquet"):
            late.write_table("captions", 1, captions(10, 20))
        assert late.exists("file")
        assert late.entries() == list(artifact.manifest.files)
        assert late.read_table("captions", 0).equals(captions(0, 10))
        assert late.marks() == {}
    assert store.verify(artifact, deep=True) == []


def test_starts_are_counted_until_the_commit(store: Store) -> None:
    draft = store.draft("labels", "9" * 16)
    for piece in ("neighbours/a b.c", "other", "neighbours/a b.c"):
        draft.start(piece)
    assert store.draft("labels", "9" * 16).starts() == {"neighbours/a b.c": 2, "other": 1}
    draft.write_bytes("note.txt", b"x")
    draft.commit(fingerprint={"of": "starts"}, schema="labels/1")
    draft.start("late")
    assert draft.starts() == {}
