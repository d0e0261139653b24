from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcls_core.errors import StoreError
from bcls_core.store import Artifact, Store

MakeTable = Callable[..., Any]
MakeVersion = Callable[..., Artifact]


@pytest.fixture
def artifact(store: Store, make_version: MakeVersion) -> Artifact:
    return make_version(store, "v1")


def test_tables_are_read_by_part_and_column(artifact: Artifact, captions: MakeTable) -> None:
    assert artifact.tables == ["captions"]
    assert [entry.rows for entry in artifact.parts("captions")] == [10, 15]
    assert artifact.read("captions", 1).equals(captions(10, 25))
    expected = captions(10, 25).select(["caption", "caption_id"])
    assert artifact.read("captions", 1, ["caption", "caption_id"]).equals(expected)
    assert [part["caption_id"].to_pylist() for part in artifact.scan("captions", ["caption_id"])] == [
        list(range(10)),
        list(range(10, 25)),
    ]


def test_more_parts_than_five_digits_stay_in_order(store: Store, captions: MakeTable) -> None:
    manifest = store.draft("corpus", "v1")
    for part in (0, 1):
        manifest.write_table("t", part, captions(part, part + 1))
    parts = manifest.commit(fingerprint={}, schema="corpus/1").manifest
    renamed = [
        entry.model_copy(update={"path": f"t/part-{number}.parquet"})
        for entry, number in zip(parts.files, ("100000", "99999"), strict=True)
    ]
    assert [entry.path for entry in parts.model_copy(update={"files": renamed}).parts("t")] == [
        "t/part-99999.parquet",
        "t/part-100000.parquet",
    ]


def test_a_table_is_not_mixed_with_one_below_it(store: Store, captions: MakeTable) -> None:
    draft = store.draft("labels", "v1")
    for table, stop in (("a", 1), ("a/b", 2), ("aXb", 3), ("a.b", 4)):
        draft.write_table(table, 0, captions(0, stop))
    artifact = draft.commit(fingerprint={}, schema="labels/1")
    assert {table: artifact.parts(table)[0].rows for table in artifact.tables} == {"a": 1, "a/b": 2, "aXb": 3, "a.b": 4}
    assert all(len(artifact.parts(table)) == 1 for table in artifact.tables)


def test_what_is_not_there_is_named(artifact: Artifact) -> None:
    for attempt, message in (
        (lambda: artifact.parts("images"), "no table 'images'; it has captions"),
        (lambda: artifact.read("captions", 2), "has parts 0 to 1, no part 2"),
        (lambda: artifact.read("captions", -1), "no part -1"),
        (lambda: artifact.read("captions", 0, ["word"]), "no column 'word'"),
        (lambda: artifact.open("truth"), "has no 'truth'"),
        (lambda: artifact.open("manifest.json"), "has no 'manifest.json'"),
        (lambda: artifact.local("truth/other"), "has no 'truth/other'"),
    ):
        with pytest.raises(StoreError, match=message):
            attempt()


def test_files_and_folders_are_brought_to_this_machine(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert artifact.local("truth/scenes.bin").read_bytes() == b"truth"
        assert [item.name for item in artifact.local("truth").iterdir()] == ["scenes.bin"]
        assert len(list(artifact.local("captions").glob("part-*.parquet"))) == 2


def test_a_download_is_checked(make_version: MakeVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store(f"memory://{tmp_path.name}-{id(tmp_path)}")
    artifact = make_version(store, "v1")
    store.filesystem.write("corpus/v1/truth/scenes.bin", b"trutH")
    with pytest.raises(StoreError, match=r"truth/scenes.bin is damaged"):
        artifact.local("truth/scenes.bin")
    assert [item for item in (tmp_path / "cache").rglob("*") if item.is_file()] == []


def test_a_lost_file_is_named(disk: Store, make_version: MakeVersion) -> None:
    artifact = make_version(disk, "v1")
    Path(artifact.url, "truth", "scenes.bin").unlink()
    for attempt in (artifact.open, artifact.local):
        with pytest.raises(StoreError, match=r"scenes\.bin is missing"):
            attempt("truth/scenes.bin")


def test_it_travels_to_other_processes(artifact: Artifact) -> None:
    copy = pickle.loads(pickle.dumps(artifact))  # noqa: S301
    assert copy.manifest == artifact.manifest
    assert copy.read("captions", 0).equals(artifact.read("captions", 0))


def test_the_sidecar_may_be_missing(disk: Store, make_version: MakeVersion) -> None:
    artifact = make_version(disk, "v1")
    assert artifact.sidecar["run"] == "r1"
    Path(artifact.url, "sidecar.json").unlink()
    assert artifact.sidecar == {}
    assert disk.verify(artifact) == []
