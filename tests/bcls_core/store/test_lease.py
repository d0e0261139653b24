from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bcls_core.errors import LockHeldError
from bcls_core.store import Lease, Store


def _holder(store: Store, number: int = 1) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(store.filesystem.read(f"corpus/leases/v1/{number:08d}.json"))
    return content


def _set(store: Store, number: int = 1, **fields: Any) -> None:
    content = json.dumps({**_holder(store, number), **fields}).encode()
    store.filesystem.write(f"corpus/leases/v1/{number:08d}.json", content)


def test_a_lease_is_exclusive_and_given_back(store: Store) -> None:
    with store.lease("corpus", "v1") as lease:
        with pytest.raises(LockHeldError) as caught, store.lease("corpus", "v1"):
            pytest.fail("two holders")
        assert f"corpus/v1 is being made by process {os.getpid()} on {_holder(store)['host']}" in str(caught.value)
        assert "last heard of 0 s ago" in str(caught.value)
        assert caught.value.exit_code == 4
        with store.lease("corpus", "v2"), store.lease("labels", "v1"):
            assert not lease.lost
    with store.lease("corpus", "v1") as lease:
        assert not lease.lost
    assert store.filesystem.names("corpus/leases/v1") == ["00000002.json"]


def test_it_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(RuntimeError), store.lease("corpus", "v1"):
        raise RuntimeError("job failed")
    with store.lease("corpus", "v1"):
        pass


def test_a_silent_holder_is_taken_over(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    paused = store.lease("corpus", "v1", ttl=60)
    paused.acquire()
    _set(store, heartbeat=time.time() - 61)
    with store.lease("corpus", "v1", ttl=3600):
        assert "taking over the lease on corpus/v1" in caplog.text
        paused.release()  # it wakes up, and must not end its successor's lease
        with pytest.raises(LockHeldError), store.lease("corpus", "v1"):
            pytest.fail("two holders")


def test_the_holder_says_how_long_silence_may_be(store: Store) -> None:
    patient = store.lease("corpus", "v1", ttl=3600)
    patient.acquire()
    _set(store, heartbeat=time.time() - 100)
    with pytest.raises(LockHeldError, match="last heard of 100 s ago"), store.lease("corpus", "v1", ttl=1):
        pytest.fail("two holders")
    patient.release()


def test_a_dead_process_of_this_machine_holds_nothing(disk: Store) -> None:
    held = multiprocessing.get_context("fork").Event()

    def hold() -> None:
        disk.lease("corpus", "v1").acquire()
        held.set()
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    assert held.wait(30)
    with pytest.raises(LockHeldError, match=f"process {process.pid} "), disk.lease("corpus", "v1"):
        pytest.fail("two holders")
    process.kill()
    process.join()
    with disk.lease("corpus", "v1"):
        pass


def test_a_process_number_says_nothing_about_another_machine(store: Store) -> None:
    lease = store.lease("corpus", "v1")
    lease.acquire()
    _set(store, machine="elsewhere", host="node-7", pid=2**22 + 1)
    with pytest.raises(LockHeldError, match="on node-7"), store.lease("corpus", "v1"):
        pytest.fail("two holders")
    _set(store, machine="elsewhere", heartbeat=time.time() - 61)
    with store.lease("corpus", "v1"):
        pass
    lease.release()


def test_the_heart_beats(store: Store) -> None:
    with store.lease("corpus", "v1", ttl=0.2):
        first = _holder(store)["heartbeat"]
        deadline = time.monotonic() + 10
        while _holder(store)["heartbeat"] <= first + 0.2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert _holder(store)["heartbeat"] > first + 0.2
        with pytest.raises(LockHeldError), store.lease("corpus", "v1"):
            pytest.fail("two holders")


def test_who_was_taken_over_finds_out(store: Store) -> None:
    with store.lease("corpus", "v1", ttl=0.2) as lease:
        content = {**_holder(store), "nonce": "another"}
        store.filesystem.write("corpus/leases/v1/00000002.json", json.dumps(content).encode())
        deadline = time.monotonic() + 10
        while not lease.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lease.lost
    assert not _holder(store, 2)["released"]


def test_a_failing_heartbeat_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.lease("corpus", "v1", ttl=0.2):
        real, failed = type(store.filesystem).write, threading.Event()

        def write(self: Any, *arguments: Any, **named: Any) -> Any:
            if not failed.is_set():
                failed.set()
                raise OSError("disk full")
            return real(self, *arguments, **named)

        before = _holder(store)["heartbeat"]
        monkeypatch.setattr(type(store.filesystem), "write", write)
        deadline = time.monotonic() + 10
        while _holder(store)["heartbeat"] == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert failed.is_set()
        assert _holder(store)["heartbeat"] > before


def test_an_unreadable_lease_does_not_count(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.filesystem.write("corpus/leases/v1/00000007.json", b"{")
    with store.lease("corpus", "v1"):
        assert store.filesystem.names("corpus/leases/v1") == ["00000008.json"]
    assert "unreadable" in caplog.text


def test_of_many_who_take_over_one_wins(disk: Store) -> None:
    disk.lease("corpus", "v1").acquire()
    _set(disk, heartbeat=0)
    barrier = threading.Barrier(8)

    def take(_: int) -> Lease | None:
        lease = disk.lease("corpus", "v1")
        barrier.wait()
        try:
            lease.acquire()
        except LockHeldError:
            return None
        return lease

    with ThreadPoolExecutor(8) as pool:
        winners = [lease for lease in pool.map(take, range(8)) if lease is not None]
    assert len(winners) == 1
    winners[0].release()


def test_a_late_taker_sees_those_who_came_and_went(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked when number 1 was stale; when it creates 2, that has been, and 3 holds."""
    store.lease("corpus", "v1").acquire()
    _set(store, heartbeat=0)
    late, holders = store.lease("corpus", "v1"), []
    real = type(store.filesystem).put_if_absent

    def put(self: Any, *arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        with store.lease("corpus", "v1"):
            pass
        holders.append(store.lease("corpus", "v1"))
        holders[0].acquire()
        return real(self, *arguments, **named)

    monkeypatch.setattr(type(store.filesystem), "put_if_absent", put)
    with pytest.raises(LockHeldError):
        late.acquire()
    assert store.filesystem.names("corpus/leases/v1") == ["00000003.json"]
    holders[0].release()
    assert _holder(store, 3)["released"]
