from __future__ import annotations

import json
import multiprocessing
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcls_core.errors import StalePublicationError, StoreError
from bcls_core.store import Artifact, NewerFormatError, Store
from bcls_core.store.sealed import seal

MakeVersion = Callable[..., Artifact]


def test_publications_are_numbered(store: Store, make_version: MakeVersion) -> None:
    assert store.sequence("corpus") == 0
    first, second = make_version(store, "v1"), make_version(store, "v2")
    published = store.publish(first, expected=0)
    assert (published.sequence, published.version, published.content_digest) == (1, "v1", first.content_digest)
    assert store.publish(second, expected=1).sequence == 2
    assert store.sequence("corpus") == 2
    assert store.current("corpus").version == "v2"
    assert [item.version for item in store.publications("corpus")] == ["v2", "v1"]
    assert store.filesystem.names("corpus/publications") == ["00000001.json", "00000002.json"]


@pytest.mark.parametrize("expected", [0, 1, 2, None])
def test_publishing_what_is_current_changes_nothing(
    store: Store, make_version: MakeVersion, expected: int | None
) -> None:
    store.publish(make_version(store, "v1"), expected=0)
    published = store.publish(make_version(store, "v2"), expected=1)
    assert store.publish(store.resolve("corpus", "v2"), expected=expected) == published
    assert store.sequence("corpus") == 2


def test_a_stale_job_cannot_publish_over_its_successor(store: Store, make_version: MakeVersion) -> None:
    slow, fast = make_version(store, "slow"), make_version(store, "fast")
    seen = store.sequence("corpus")
    store.publish(fast, expected=seen)
    with pytest.raises(StalePublicationError, match=r"slow is not made current: .* fast \(sequence 1\) is current now"):
        store.publish(slow, expected=seen)
    store.publish(slow, expected=None)
    with pytest.raises(StalePublicationError):
        store.publish(fast, expected=0)
    assert [item.version for item in store.publications("corpus")] == ["slow", "fast"]


def test_a_job_overtaken_between_its_look_and_its_put(
    store: Store, make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = make_version(store, "slow"), make_version(store, "fast")
    real = type(store.filesystem).put_if_absent

    def put(self: Any, path: str, data: bytes, **named: Any) -> bool:
        monkeypatch.undo()
        store.publish(fast, expected=None)
        return bool(real(self, path, data, **named))

    monkeypatch.setattr(type(store.filesystem), "put_if_absent", put)
    with pytest.raises(StalePublicationError, match="slow"):
        store.publish(slow, expected=None)
    assert [item.version for item in store.publications("corpus")] == ["fast"]


def test_a_gap_in_the_sequence_is_not_filled_from_behind(store: Store, make_version: MakeVersion) -> None:
    for number, version in enumerate(("v1", "v2", "v3")):
        store.publish(make_version(store, version), expected=number)
    store.filesystem.remove_file("corpus/publications/00000002.json")
    with pytest.raises(StalePublicationError):
        store.publish(store.resolve("corpus", "v2"), expected=1)
    assert store.filesystem.names("corpus/publications") == ["00000001.json", "00000003.json"]


def test_rolling_back_is_publishing_again(store: Store, make_version: MakeVersion) -> None:
    for number, version in enumerate(("v1", "v2")):
        store.publish(make_version(store, version), expected=number)
    assert store.rollback("corpus", "v1").sequence == 3
    assert store.current("corpus").version == "v1"
    assert store.rollback("corpus", "v1").sequence == 3
    assert [item.version for item in store.publications("corpus")] == ["v1", "v2", "v1"]


def _foreign(kind: str, version: str, sequence: int, digest: str) -> bytes:
    document = {"kind": kind, "version": version, "sequence": sequence, "content_digest": digest, "published": "now"}
    return seal(document)


@pytest.mark.parametrize(
    "broken",
    ["empty", "garbage", "other kind", "other number", "no manifest", "other digest", "more fields", "flipped bit"],
)
def test_a_publication_that_does_not_count_neither_hides_nor_blocks(
    store: Store, make_version: MakeVersion, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    first, second = make_version(store, "v1"), make_version(store, "v2")
    store.publish(first, expected=0)
    digest = second.content_digest
    good = _foreign("corpus", "v2", 2, digest)
    content = {
        "empty": b"",
        "garbage": b"\xff{",
        "other kind": _foreign("labels", "v2", 2, digest),
        "other number": _foreign("corpus", "v2", 3, digest),
        "no manifest": _foreign("corpus", "v3", 2, digest),
        "other digest": _foreign("corpus", "v2", 2, "0" * 64),
        "more fields": seal({"kind": "corpus", "version": "v2"}),
        "flipped bit": good.replace(b'"v2"', b'"v1"'),
    }[broken]
    store.filesystem.write("corpus/publications/00000002.json", content)
    assert store.current("corpus").version == "v1"
    assert store.sequence("corpus") == 1
    assert "00000002.json does not count" in caplog.text
    assert store.publish(second, expected=1).sequence == 3
    assert store.current("corpus").version == "v2"
    with pytest.raises(StalePublicationError):
        store.publish(first, expected=1)
    assert [info.sequences for info in store.list("corpus")] == [(3,), (1,)]


def test_files_with_other_names_are_no_publications(store: Store, make_version: MakeVersion) -> None:
    artifact = make_version(store, "v1")
    for name in ("1.json", "00000009.json.bak", ".00000009.json.ab.tmp", "notes.txt"):
        store.filesystem.write(f"corpus/publications/{name}", _foreign("corpus", "v1", 9, artifact.content_digest))
    assert store.sequence("corpus") == 0


def test_a_publication_of_a_newer_bcls_is_not_passed_over(store: Store, make_version: MakeVersion) -> None:
    artifact = make_version(store, "v1")
    store.publish(artifact, expected=0)
    newer = {**json.loads(_foreign("corpus", "v1", 2, artifact.content_digest)), "format": 2}
    store.filesystem.write("corpus/publications/00000002.json", json.dumps(newer).encode())
    with pytest.raises(NewerFormatError, match="upgrade bcls"):
        store.current("corpus")


def test_only_what_is_committed_here_is_published(store: Store, make_version: MakeVersion, tmp_path: Path) -> None:
    elsewhere = make_version(Store(tmp_path / "elsewhere"), "v1")
    with pytest.raises(StoreError, match="is not committed under"):
        store.publish(elsewhere, expected=0)
    make_version(store, "v1", word="ball")
    with pytest.raises(StoreError, match="is not committed under"):
        store.publish(elsewhere, expected=0)
    assert store.sequence("corpus") == 0


def _publish(root: str, version: str, barrier: Any, results: Any) -> None:
    store = Store(root)
    artifact = store.resolve("corpus", version)
    for sequence in range(6):
        barrier.wait()
        try:
            results.put((sequence, version, store.publish(artifact, expected=sequence).sequence))
        except StalePublicationError:
            results.put((sequence, version, None))
        barrier.wait()


def test_of_many_processes_exactly_one_publishes_each_sequence(disk: Store, make_version: MakeVersion) -> None:
    versions = [f"v{number}" for number in range(4)]
    for version in versions:
        make_version(disk, version)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(len(versions)), context.Queue()
    workers = [context.Process(target=_publish, args=(disk.url, version, barrier, results)) for version in versions]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in range(6 * len(versions))]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with pytest.raises(queue.Empty):
        results.get_nowait()
    history = {published.sequence: published.version for published in disk.publications("corpus")}
    assert sorted(history) == [1, 2, 3, 4, 5, 6]
    for expected in range(6):  # the one that is current already may be told its old number
        winners = [version for seen, version, number in outcomes if seen == expected and number == expected + 1]
        assert winners == [history[expected + 1]]
    assert all(number in (None, expected, expected + 1) for expected, _, number in outcomes)
