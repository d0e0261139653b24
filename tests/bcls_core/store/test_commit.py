from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bcls_core.errors import StoreError
from bcls_core.store import Artifact, Draft, NewerFormatError, Store
from bcls_core.store.commit import Commit
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.local import LocalFilesystem
from bcls_core.store.object_store import ObjectFilesystem
from bcls_core.store.workspace import Workspace

MakeTable = Callable[..., Any]
MakeVersion = Callable[..., Artifact]
FILESYSTEMS = (LocalFilesystem, ObjectFilesystem)


def test_the_manifest_says_it_all(store: Store, captions: MakeTable) -> None:
    draft = store.draft("labels", "v1")
    part = draft.write_table("embeddings/minilm", 0, captions(0, 10))
    file = draft.write_bytes("a", b"x")
    artifact = draft.commit(
        fingerprint={"teacher": "minilm", "k": (3, 4)},
        schema="labels/1",
        parents={"corpus": "c1"},
        statistics={"mean": 0.5},
        gates={"ids": "equal"},
        sidecar={"run": "r1", "seconds": 2.5},
    )
    manifest = artifact.manifest
    assert (manifest.format, manifest.kind, manifest.version, manifest.schema_name) == (1, "labels", "v1", "labels/1")
    assert manifest.fingerprint == {"teacher": "minilm", "k": [3, 4]}
    assert (manifest.parents, manifest.statistics, manifest.gates) == (
        {"corpus": "c1"},
        {"mean": 0.5},
        {"ids": "equal"},
    )
    assert manifest.files == [file, part]
    assert manifest.tables["embeddings/minilm"].columns == {
        "caption": "string",
        "caption_id": "int64",
        "image_id": "string",
        "weights": "list<float>",
    }
    assert {"run": "r1", "seconds": 2.5}.items() <= artifact.sidecar.items()
    assert sorted(store.filesystem.files("labels/v1")) == [
        "a",
        "embeddings/minilm/part-00000.parquet",
        "manifest.json",
        "sidecar.json",
    ]
    assert json.loads(store.filesystem.read("labels/v1/manifest.json"))["format"] == 1
    assert store.find("labels", "v1").manifest == manifest  # type: ignore[union-attr]


def test_the_content_digest_is_of_the_content(store: Store, captions: MakeTable) -> None:
    def digest(version: str, parts: list[Any], **said: Any) -> str:
        draft = store.draft("corpus", version)
        for number, part in enumerate(parts):
            draft.write_table("captions", number, part)
        draft.write_bytes("file", said.pop("file", b"x"))
        return draft.commit(**{"fingerprint": {"a": 1}, "schema": "corpus/1", **said}).content_digest

    rows = captions(0, 20)
    first = digest("v1", [rows])
    other_layout = [rows.slice(11), rows.slice(0, 4), rows.slice(4, 7)]
    assert digest("v2", other_layout, sidecar={"run": 2}, statistics={"n": 1}, parents={"corpus": "c"}) == first
    assert digest("v3", [captions(0, 19)]) != first
    assert digest("v4", [rows], fingerprint={"a": 2}) != first
    assert digest("v5", [rows], schema="corpus/2") != first
    assert digest("v6", [rows], file=b"y") != first


@pytest.mark.parametrize(
    ("parts", "message"),
    [([0, 2], r"'captions' has 2 parts but not 1"), ([1], r"has 1 parts but not 0"), ([0, 1, 7, 9], r"but not 2, 3")],
)
def test_parts_must_be_contiguous(store: Store, captions: MakeTable, parts: list[int], message: str) -> None:
    draft = store.draft("corpus", "v1")
    for part in parts:
        draft.write_table("captions", part, captions(part, part + 1))
    with pytest.raises(StoreError, match=message):
        draft.commit(fingerprint={}, schema="corpus/1")
    assert store.find("corpus", "v1") is None


def test_what_is_wrong_can_be_put_right_and_committed(store: Store, captions: MakeTable) -> None:
    draft = store.draft("corpus", "v1")
    draft.write_table("captions", 1, captions(1, 2))
    with pytest.raises(StoreError, match="but not 0"):
        draft.commit(fingerprint={}, schema="corpus/1")
    draft.write_table("captions", 0, captions(0, 1))
    artifact = draft.commit(fingerprint={}, schema="corpus/1")
    assert store.verify(artifact, deep=True) == []


def test_parts_must_have_equal_columns(store: Store) -> None:
    draft = store.draft("corpus", "v1")
    draft.write_table("t", 0, pa.table({"id": pa.array([1], pa.int64())}))
    draft.write_table("t", 1, pa.table({"id": pa.array([1], pa.int32())}))
    with pytest.raises(StoreError, match=r"part 1 has columns \{'id': 'int32'\}, part 0 \{'id': 'int64'\}"):
        draft.commit(fingerprint={}, schema="corpus/1")


def test_an_empty_draft_is_no_version(store: Store) -> None:
    with pytest.raises(StoreError, match="nothing was written"):
        store.draft("corpus", "v1").commit(fingerprint={}, schema="corpus/1")


@pytest.mark.parametrize(
    "said", [{"fingerprint": {"a": {1}}}, {"statistics": {"n": float("nan")}}, {"parents": {"c": 3}}]
)
def test_what_is_said_must_be_json(store: Store, said: dict[str, Any]) -> None:
    draft = store.draft("corpus", "v1")
    draft.write_bytes("a", b"x")
    with pytest.raises(StoreError, match=r"set|nan|parents"):
        draft.commit(**{"fingerprint": {}, "schema": "corpus/1", **said})
    assert store.find("corpus", "v1") is None


@pytest.mark.parametrize("content", [None, b"xx", b"X"])
def test_a_file_that_was_lost_or_changed_is_found(disk: Store, content: bytes | None) -> None:
    draft = disk.draft("corpus", "v1")
    draft.write_bytes("a", b"x")
    Path(draft.url, "a").unlink()
    if content is not None:
        Path(draft.url, "a").write_bytes(content)
    with pytest.raises(StoreError, match="missing now: a" if content is None else "a is not what its record says"):
        draft.commit(fingerprint={}, schema="corpus/1")
    assert disk.find("corpus", "v1") is None


def test_a_file_cut_short_behind_the_stamps_back_is_found(disk: Store) -> None:
    draft = disk.draft("corpus", "v1")
    draft.write_bytes("a", b"xyz")
    path = Path(draft.url, "a")
    before = path.stat()
    with path.open("r+b") as handle:
        handle.truncate(2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match="2 bytes now, 3 written"):
        draft.commit(fingerprint={}, schema="corpus/1")


def test_a_copied_draft_is_as_good(disk: Store) -> None:
    draft = disk.draft("corpus", "v1")
    draft.write_bytes("a", b"x")
    Path(draft.url, "a").unlink()
    Path(draft.url, "a").write_bytes(b"x")
    assert draft.commit(fingerprint={}, schema="corpus/1").manifest.files[0].size == 1


def test_records_that_overtook_each_other_are_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writes, B writes, B records, A records: the file is B's and the record A's."""
    draft = store.draft("corpus", "v1")
    record, held = Workspace.record, []
    monkeypatch.setattr(Workspace, "record", lambda _, *arguments: held.append(arguments))
    draft.write_bytes("a", b"A")
    draft.write_bytes("a", b"B")
    for arguments in reversed(held):
        record(Workspace(store.filesystem, "corpus/v1"), *arguments)
    with pytest.raises(StoreError, match="two processes wrote it at once"):
        draft.commit(fingerprint={}, schema="corpus/1")


def test_row_digests_belong_to_the_bytes_they_were_made_of(disk: Store, captions: MakeTable) -> None:
    draft = disk.draft("corpus", "v1")
    draft.write_table("captions", 0, captions(0, 10))
    [rows] = Path(draft.url, "_work", "rows").iterdir()
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(StoreError, match="159 bytes instead of 16 for each of 10 rows"):
        draft.commit(fingerprint={}, schema="corpus/1")


def test_files_of_killed_writes_are_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draft = store.draft("corpus", "v1")
    draft.write_bytes("a", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "record", lambda *_: None)
        draft.write_bytes("deep/stray", b"x")
    if isinstance(store.filesystem, LocalFilesystem):
        Path(draft.url, "_work", "staging", ".unfinished.tmp").write_bytes(b"xyz")
    artifact = draft.commit(fingerprint={}, schema="corpus/1")
    assert "removing deep/stray" in caplog.text
    assert sorted(store.filesystem.files("corpus/v1")) == ["a", "manifest.json", "sidecar.json"]
    assert store.verify(artifact) == []


def test_the_first_commit_stands_and_is_returned(store: Store, make_version: MakeVersion) -> None:
    first = make_version(store, "v1")
    assert make_version(store, "v1").content_digest == first.content_digest
    for said in ({"fingerprint": {"version": "v2"}}, {"schema": "corpus/2"}):
        with pytest.raises(StoreError, match=first.content_digest):
            store.draft("corpus", "v1").commit(**{"fingerprint": {"version": "v1"}, "schema": "corpus/1", **said})
    assert store.find("corpus", "v1").manifest == first.manifest  # type: ignore[union-attr]


@pytest.mark.parametrize("agrees", [True, False])
def test_a_commit_that_comes_second_by_a_hair(
    store: Store, captions: MakeTable, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    draft = store.draft("corpus", "v1")
    draft.write_table("captions", 0, captions(0, 10))
    rival = pickle.loads(pickle.dumps(draft))  # noqa: S301
    rivals: list[Artifact] = []
    for kind in FILESYSTEMS:
        real = kind.put_if_absent

        def put(self: Filesystem, *arguments: Any, real: Any = real, **named: Any) -> bool:
            if not rivals:
                rivals.append(None)  # type: ignore[arg-type]
                rivals[0] = rival.commit(fingerprint={"a": 1 if agrees else 2}, schema="corpus/1")
            return bool(real(self, *arguments, **named))

        monkeypatch.setattr(kind, "put_if_absent", put)
    if agrees:
        assert draft.commit(fingerprint={"a": 1}, schema="corpus/1").manifest == rivals[0].manifest
    else:
        with pytest.raises(StoreError, match=r"content_digest [0-9a-f]{64}, this commit has [0-9a-f]{64}"):
            draft.commit(fingerprint={"a": 1}, schema="corpus/1")
    assert store.verify(rivals[0], deep=True) == []


@pytest.mark.parametrize("step", ["entries", "files"])
def test_a_slow_commit_never_takes_a_committed_file_for_a_stray(
    store: Store, captions: MakeTable, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The rival finishes, and removes the records, while the slow one is collecting them."""
    draft = store.draft("corpus", "v1")
    draft.write_table("captions", 0, captions(0, 10))
    rival = pickle.loads(pickle.dumps(draft))  # noqa: S301
    rivals: list[Artifact] = []

    def overtaken(real: Any) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            if not rivals:
                rivals.append(None)  # type: ignore[arg-type]
                rivals[0] = rival.commit(fingerprint={}, schema="corpus/1")
            return real(self, *arguments)

        return call

    if step == "entries":
        monkeypatch.setattr(Workspace, "entries", overtaken(Workspace.entries))
    else:
        monkeypatch.setattr(Filesystem, "files", overtaken(Filesystem.files))
    assert draft.commit(fingerprint={}, schema="corpus/1").manifest == rivals[0].manifest
    assert store.verify(rivals[0], deep=True) == []


def test_opening_a_draft_stops_a_commit_under_way(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the one who opened it could change a file between the audit and the manifest."""
    draft = disk.draft("corpus", "v1")
    draft.write_bytes("a", b"x")
    real = Commit._manifest
    monkeypatch.setattr(Commit, "_manifest", lambda self, entries: (disk.draft("corpus", "v1"), real(self, entries))[1])
    with pytest.raises(StoreError, match="opened again or discarded"):
        draft.commit(fingerprint={}, schema="corpus/1")
    monkeypatch.undo()
    assert disk.find("corpus", "v1") is None
    assert draft.commit(fingerprint={}, schema="corpus/1").manifest.files[0].size == 1


def test_a_write_during_the_commit_is_refused(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = disk.draft("corpus", "v1")
    draft.write_bytes("a", b"x")
    late = pickle.loads(pickle.dumps(draft))  # noqa: S301
    real = Commit._manifest

    def manifest(self: Commit, entries: Any) -> Any:
        for attempt in (lambda: late.write_bytes("a", b"y"), lambda: late.mark("piece", {})):
            with pytest.raises(StoreError, match="another process is committing"):
                attempt()
        return real(self, entries)

    monkeypatch.setattr(Commit, "_manifest", manifest)
    artifact = draft.commit(fingerprint={}, schema="corpus/1")
    assert disk.verify(artifact) == []


class Killed(BaseException):
    """Stands for the death of the process."""


@pytest.mark.parametrize(
    "step",
    [
        "Workspace.close",
        "Workspace.entries",
        "Commit._sidecar",
        "put_if_absent",
        "put_if_absent after",
        "Workspace.remove",
    ],
)
def test_a_commit_killed_at_any_step_is_finished_by_the_next(
    store: Store, make_version: MakeVersion, captions: MakeTable, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        _kill_at(patch, step)
        with pytest.raises(Killed):
            make_version(store, "v1")
    committed = step in ("put_if_absent after", "Workspace.remove")
    assert [info.version for info in store.list(unpublished=True)] == (["v1"] if committed else [])
    artifact = make_version(store, "v1")
    assert store.verify(artifact, deep=True) == []
    assert artifact.content_digest == make_version(Store(f"{store.url}/undisturbed"), "v1").content_digest
    assert not any(name.startswith("_") for name in store.filesystem.files("corpus/v1"))


def _kill_at(patch: pytest.MonkeyPatch, step: str) -> None:
    def kill(*arguments: Any, **named: Any) -> Any:
        raise Killed

    owner, _, method = step.partition(".")
    if owner in ("Workspace", "Commit"):
        patch.setattr({"Workspace": Workspace, "Commit": Commit}[owner], method, kill)
        return
    for kind in FILESYSTEMS:
        real = kind.put_if_absent
        late = lambda *arguments, real=real, **named: (real(*arguments, **named), kill())  # noqa: E731
        patch.setattr(kind, "put_if_absent", late if step.endswith("after") else kill)


def test_records_killed_half_way_through_their_removal_do_no_harm(disk: Store, make_version: MakeVersion) -> None:
    artifact = make_version(disk, "v1")
    work = Path(artifact.url, "_gone-0", "entries")
    work.mkdir(parents=True)
    (work / "x.json").write_bytes(b"{")
    assert disk.verify(artifact) == []
    assert make_version(disk, "v1").manifest == artifact.manifest
    assert not work.exists()


def test_a_version_of_a_newer_bcls_is_not_touched(disk: Store, make_version: MakeVersion) -> None:
    artifact = make_version(disk, "v1")
    path = Path(artifact.url, "manifest.json")
    newer = json.dumps({**json.loads(path.read_bytes()), "format": 2}).encode()
    path.write_bytes(newer)
    for attempt in (
        lambda: disk.find("corpus", "v1"),
        lambda: disk.resolve("corpus", "v1"),
        lambda: make_version(disk, "v1"),
    ):
        with pytest.raises(NewerFormatError, match=r"manifest.json has format 2, .* up to format 1: upgrade bcls"):
            attempt()
    assert path.read_bytes() == newer


def test_a_folder_under_another_name_is_noticed(disk: Store, make_version: MakeVersion) -> None:
    artifact = make_version(disk, "v1")
    Path(artifact.url).rename(Path(disk.url, "corpus", "v2"))
    with pytest.raises(StoreError, match="is the manifest of corpus/v1"):
        disk.find("corpus", "v2")


def test_a_draft_says_where_it_is(disk: Store) -> None:
    draft: Draft = disk.draft("corpus", "v1")
    assert draft.url == f"{disk.url}/corpus/v1"
