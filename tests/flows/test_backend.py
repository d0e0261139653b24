"""Pieces: done ones are not run again, and errors keep their kind through whatever wraps them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import flows.backend
from bcls_core.errors import BclsError, CorpusError, ModelError
from bcls_core.store import Store
from flows.backend import LocalBackend, RayBackend, origins, own_error, results

REPOSITORY = Path(__file__).parents[2]


class Doubler:
    """A worker that notes every call in a file and fails on a piece called "bad"."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(self, piece: dict[str, Any]) -> dict[str, Any]:
        if piece["piece"] == "bad":
            raise CorpusError("shard 3: unreadable. Ingest again.")
        with self._log.open("a") as file:
            file.write(piece["piece"] + "\n")
        return {"twice": 2 * piece["value"]}


def test_a_second_attempt_runs_only_what_is_missing(tmp_path: Path) -> None:
    draft, log = Store(tmp_path / "root").draft("corpus", "v1"), tmp_path / "log"
    pieces: list[dict[str, Any]] = [{"piece": f"p{number}", "value": number} for number in range(3)]
    with pytest.raises(CorpusError, match="shard 3"):
        LocalBackend().run(Doubler, {"log": log}, [*pieces[:2], {"piece": "bad"}, pieces[2]], draft=draft, what="")
    assert log.read_text().split() == ["p0", "p1"]
    records = LocalBackend().run(Doubler, {"log": log}, pieces, draft=draft, what="")
    assert log.read_text().split() == ["p0", "p1", "p2"]
    assert results(records) == [{"twice": 0}, {"twice": 2}, {"twice": 4}]
    assert {"piece", "pid", "node", "seconds", "task"} == set(origins(records)[0])


def test_the_own_error_is_found_in_causes_contexts_and_worker_failures() -> None:
    original = ModelError("no such model. Install it.")
    by_cause = RuntimeError("wrapped")
    by_cause.__cause__ = original
    by_attribute = RuntimeError("a task failed")
    by_attribute.cause = by_cause  # type: ignore[attr-defined]
    by_worker = RuntimeError("a training failed")
    by_worker.worker_failures = {0: by_attribute}  # type: ignore[attr-defined]
    assert own_error(by_worker) is original
    assert own_error(RuntimeError("nothing of ours")) is None


def test_a_wrapper_that_poses_as_our_error_gives_the_original() -> None:
    class PosingError(BclsError):
        """As Ray makes them: a subclass of the class that was raised, with a trace for a message."""

    original = ModelError("short")
    posing = PosingError("a long trace")
    posing.cause = original  # type: ignore[attr-defined]
    assert own_error(posing) is original


class Other:
    """Somebody else's actor."""

    def here(self) -> None:
        """Answers once it is there."""


@pytest.mark.slow
def test_waiting_for_others_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    monkeypatch.setattr(flows.backend, "_PATIENCE", 1.0)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        other = ray.remote(Other).options(num_cpus=1).remote()
        ray.get(other.here.remote())
        gone = threading.Timer(6.0, ray.kill, (other,))
        gone.start()
        pieces: list[dict[str, Any]] = [{"piece": "p", "value": 4}]
        records = RayBackend(1).run(Doubler, {"log": tmp_path / "log"}, pieces, draft=None, what="")
        gone.join()
        assert results(records) == [{"twice": 8}]
        assert "no piece is done after 1 s; free in the cluster: 0 of 1 CPU" in caplog.text
    finally:
        ray.shutdown()
