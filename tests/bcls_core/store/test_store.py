from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from bcls_core.errors import StoreError, UnknownArtifactError
from bcls_core.store import Artifact, ArtifactInfo, Store

MakeVersion = Callable[..., Artifact]


@pytest.fixture
def full(store: Store, make_version: MakeVersion) -> Store:
    """ab11 (publications 1 and 3), ab22 (2), cd33 (committed only), ab44 (a draft)."""
    for number, version in enumerate(("ab11", "ab22")):
        store.publish(make_version(store, version), expected=number)
    store.rollback("corpus", "ab11")
    make_version(store, "cd33")
    store.draft("corpus", "ab44").write_bytes("a", b"x")
    return store


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("current", "ab11"),
        ("ab11", "ab11"),
        ("ab2", "ab22"),
        ("c", "cd33"),
        ("@2", "ab22"),
        ("@3", "ab11"),
        ("@1", "ab11"),
    ],
)
def test_versions_are_found_by_what_people_write(full: Store, wanted: str, version: str) -> None:
    assert full.resolve("corpus", wanted).version == version


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("corpus", "ab", r"corpus 'ab' fits ab11, ab22 under .*; there is ab11 \(current\), ab22, cd33\."),
        ("corpus", "ef", r"corpus 'ef' is not there under"),
        ("corpus", "ab44", r"corpus 'ab44' is not there under"),
        ("corpus", "", r"corpus '' is not there under"),
        ("corpus", "../x", r"is not there under"),
        ("corpus", "@4", r"corpus has no publication 4 under .*; there is ab11"),
        ("labels", "current", r"no labels is published under .*; there is no labels at all\."),
        ("labels", "ab", r"labels 'ab' is not there under .*; there is no labels at all\."),
    ],
)
def test_what_is_not_there_is_said_with_what_is(full: Store, kind: str, wanted: str, message: str) -> None:
    with pytest.raises(UnknownArtifactError, match=message) as caught:
        full.resolve(kind, wanted)
    assert full.url in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_version_whose_name_begins_another_is_found(store: Store, make_version: MakeVersion) -> None:
    make_version(store, "ab")
    make_version(store, "abc")
    assert store.resolve("corpus", "ab").version == "ab"


def test_find_wants_the_exact_name(full: Store) -> None:
    assert full.find("corpus", "cd33") is not None
    assert full.find("corpus", "cd") is None
    assert full.find("corpus", "ab44") is None


def test_the_listing_shows_publications(full: Store, make_version: MakeVersion) -> None:
    full.publish(make_version(full, "t1", kind="training"), expected=0)
    infos = full.list()
    assert [(info.kind, info.version, info.current, info.sequences) for info in infos] == [
        ("corpus", "ab11", True, (3, 1)),
        ("corpus", "ab22", False, (2,)),
        ("training", "t1", True, (1,)),
    ]
    everything = full.list("corpus", unpublished=True)
    assert [(info.version, info.current, info.sequences) for info in everything[2:]] == [("cd33", False, ())]
    artifact = full.current("corpus")
    first: ArtifactInfo = infos[0]
    assert (first.content_digest, first.rows) == (artifact.content_digest, 25)
    assert first.bytes == sum(entry.size for entry in artifact.manifest.files)
    assert first.created == artifact.sidecar["created"]
    assert full.list("labels") == []


def test_an_empty_root_is_an_empty_store(store: Store) -> None:
    assert store.list() == []
    assert store.sequence("corpus") == 0
    assert store.publications("corpus") == []


def test_a_damaged_version_does_not_hide_the_others(
    disk: Store, make_version: MakeVersion, caplog: pytest.LogCaptureFixture
) -> None:
    for number, version in enumerate(("v1", "v2")):
        disk.publish(make_version(disk, version), expected=number)
    Path(disk.url, "corpus", "v2", "manifest.json").write_bytes(b"{")
    assert [info.version for info in disk.list("corpus")] == ["v1"]
    assert disk.current("corpus").version == "v1"
    assert "v2/manifest.json is damaged" in caplog.text


def test_other_things_under_the_root_are_left_alone(disk: Store, make_version: MakeVersion) -> None:
    disk.publish(make_version(disk, "v1"), expected=0)
    Path(disk.url, "mlflow.db").write_bytes(b"sql")
    Path(disk.url, "mlruns", "1", ".trash").mkdir(parents=True)
    Path(disk.url, "corpus", "notes.txt").write_bytes(b"x")
    assert [info.version for info in disk.list(unpublished=True)] == ["v1"]


@pytest.mark.parametrize(
    ("kind", "version"), [("../x", "v"), ("corpus", "a/b"), ("corpus", "publications"), ("", "v"), ("a", "")]
)
def test_names_stay_inside_the_root(store: Store, kind: str, version: str) -> None:
    for attempt in (store.draft, store.find, store.lease):
        with pytest.raises(StoreError, match="cannot be stored"):
            attempt(kind, version)


def test_it_travels_to_other_processes(full: Store) -> None:
    assert pickle.loads(pickle.dumps(full)).list() == full.list()  # noqa: S301


def test_reading_needs_no_right_to_write(disk: Store, make_version: MakeVersion) -> None:
    disk.publish(make_version(disk, "v1"), expected=0)
    before = {path: path.stat().st_mtime_ns for path in Path(disk.url).rglob("*")}
    artifact = disk.resolve("corpus")
    assert disk.verify(artifact, deep=True) == []
    assert disk.list(unpublished=True)
    assert {path: path.stat().st_mtime_ns for path in Path(disk.url).rglob("*")} == before


def test_one_root_by_its_folder_and_its_link(tmp_path: Path, make_version: MakeVersion) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    artifact = make_version(Store(tmp_path / "link"), "v1")
    assert Store(tmp_path / "real").verify(artifact) == []
    assert Store(tmp_path / "real").find("corpus", "v1") is not None
