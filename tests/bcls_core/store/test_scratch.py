from __future__ import annotations

from pathlib import Path

import pytest

from bcls_core.errors import StoreError
from bcls_core.store import Store


def test_working_files_survive_and_never_become_part_of_the_version(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "config").write_bytes(b"c")
    scratch = store.draft("training", "v1").scratch
    scratch.write_bytes("checkpoint", b"one")
    scratch.write_bytes("checkpoint", b"two")
    scratch.add_tree("initial", tmp_path / "model")
    draft = store.draft("training", "v1")
    assert draft.scratch.open("checkpoint").read() == b"two"
    assert draft.scratch.exists("initial/deep/config")
    draft.scratch.copy_tree("initial", tmp_path / "copy")
    assert (tmp_path / "copy" / "deep" / "config").read_bytes() == b"c"
    draft.write_bytes("model", b"m")
    artifact = draft.commit(fingerprint={}, schema="training/1")
    assert [entry.path for entry in artifact.manifest.files] == ["model"]
    assert not draft.scratch.exists("checkpoint")
    assert store.verify(artifact) == []


def test_a_committed_draft_takes_no_more_working_files(disk: Store, tmp_path: Path) -> None:
    draft = disk.draft("training", "v1")
    draft.write_bytes("model", b"m")
    draft.commit(fingerprint={}, schema="training/1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x")
    for attempt in (
        lambda: draft.scratch.write_bytes("checkpoint", b"x"),
        lambda: draft.scratch.add_tree("folder", tmp_path / "folder"),
    ):
        with pytest.raises(StoreError, match="committed or discarded"):
            attempt()


def test_working_files_stay_inside(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        store.draft("training", "v1").scratch.write_bytes("../entries/x.json", b"x")


def test_files_are_listed_mapped_and_taken_away(tmp_path: Path) -> None:
    scratch = Store(tmp_path).draft("training", "v1").scratch
    for name in ("b.bin", "a.bin"):
        scratch.write_bytes(name, name.encode())
    assert scratch.names() == ["a.bin", "b.bin"]
    place = scratch.local("a.bin")
    assert place is not None
    assert place.read_bytes() == b"a.bin"
    scratch.remove("a.bin")
    scratch.remove("a.bin")
    assert scratch.names() == ["b.bin"]
    assert Store("memory://scratch-mapped").draft("training", "v1").scratch.local("a.bin") is None
