"""Two ways to run a flow's pieces: a plain loop, and Ray Data. Same worker classes, equal results.

A piece is a small dictionary with an id under "piece". A worker turns it into files in a draft and returns a small
record; the record is marked done in the draft by the process that did the work, so a killed driver loses nothing.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from bcls_core import errors
from bcls_core.errors import BclsError
from bcls_core.store import Draft
from flows.progress import progress_bar

Piece = dict[str, Any]
Record = dict[str, Any]
WorkerClass = Callable[..., Callable[[Piece], Record]]

log = logging.getLogger(__name__)

_AMOUNTS = ("CPU", "GPU")
_PATIENCE = 60.0  # seconds without a first piece, after which one may ask whether the cluster has room for it


class Backend(Protocol):
    """Runs a worker class over pieces."""

    name: str

    def run(
        self, worker: WorkerClass, arguments: dict[str, Any], pieces: list[Piece], *, draft: Draft | None, what: str
    ) -> list[Record]:
        """Records in the order of `pieces`; pieces already marked in `draft` are not run again."""

    def has_gpu(self) -> bool:
        """Whether pieces could run on a GPU."""


class _Runner:
    """A worker plus what every piece needs around it: timing, origin, and the done mark."""

    def __init__(self, worker: WorkerClass, arguments: dict[str, Any], draft: Draft | None) -> None:
        self._work = worker(**arguments)
        self._draft = draft

    def __call__(self, piece: Piece) -> Record:
        started = time.perf_counter()
        if self._draft is not None:
            self._draft.start(piece["piece"])
        result = self._work(piece)
        seconds = round(time.perf_counter() - started, 4)
        origin: dict[str, Any] = {"task": _task_id(), "pid": os.getpid(), "node": platform.node(), "seconds": seconds}
        record = {"piece": piece["piece"], "result": result, "origin": origin}
        if self._draft is not None:
            self._draft.mark(piece["piece"], record)
        return record


def _task_id() -> str | None:
    """The Ray task this runs in; None in a plain process."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_task_id() if ray is not None and ray.is_initialized() else None


class _RayRunner:
    """The same over Ray Data batches of one row; pieces travel as JSON, so their types survive the trip."""

    def __init__(self, stage: str, worker: WorkerClass, arguments: dict[str, Any], draft: Draft | None) -> None:
        self._stage = stage
        self._make = partial(_Runner, worker, arguments, draft)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            runner = _runner_of_stage(self._stage, self._make)
            records = [runner(json.loads(text)) for text in batch["piece"]]
        except BclsError as error:
            # As a record: Ray would turn the exception into one of its own, of which only a long trace is left.
            records = [record_of_error(error)]
        return {"record": [json.dumps(record) for record in records]}


class _RayActor:
    """A Ray Data actor around a runner."""

    def __init__(self, runner: _RayRunner) -> None:
        self._runner = runner

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return self._runner(batch)


_newest_runner: tuple[str, _Runner] | None = None


def _runner_of_stage(stage: str, make: Callable[[], _Runner]) -> _Runner:
    """This process's runner for a stage: made for its first piece, kept for the rest, dropped for the next stage's."""
    global _newest_runner
    if _newest_runner is None or _newest_runner[0] != stage:
        _newest_runner = None
        _newest_runner = (stage, make())
    return _newest_runner[1]


class LocalBackend:
    """Runs pieces one after the other in this process."""

    name = "local"

    def run(
        self, worker: WorkerClass, arguments: dict[str, Any], pieces: list[Piece], *, draft: Draft | None, what: str
    ) -> list[Record]:
        done, missing = _split_done(pieces, draft)
        if missing:
            runner = _Runner(worker, arguments, draft)
            _collect(done, map(runner, missing), pieces, what)
        return [done[piece["piece"]] for piece in pieces]

    def has_gpu(self) -> bool:
        import torch

        return torch.cuda.is_available()


class RayBackend:
    """Runs pieces through Ray Data, at most `workers` at once."""

    name = "ray"

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(
        self, worker: WorkerClass, arguments: dict[str, Any], pieces: list[Piece], *, draft: Draft | None, what: str
    ) -> list[Record]:
        done, missing = _split_done(pieces, draft)
        if missing:
            _collect(done, self._stream(worker, arguments, missing, draft), pieces, what)
        return [done[piece["piece"]] for piece in pieces]

    def has_gpu(self) -> bool:
        import ray

        from flows.cluster_session import ensure_ray

        ensure_ray()
        return bool(ray.cluster_resources().get("GPU", 0) >= 1)

    def _stream(
        self, worker: WorkerClass, arguments: dict[str, Any], pieces: list[Piece], draft: Draft | None
    ) -> Iterator[Record]:
        import ray
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        from flows.cluster_session import ensure_ray, require_resources

        ensure_ray()
        size = min(self._workers, len(pieces))
        # The most work first, so that workers end together.
        pieces = sorted(pieces, key=lambda piece: -int(piece.get("work", 1)))
        table = ray.data.from_items([{"piece": json.dumps(piece)} for piece in pieces], override_num_blocks=len(pieces))
        runner = _RayRunner(uuid.uuid4().hex, worker, arguments, draft)
        # On CPUs tasks: unlike an actor, the process that ran one stage serves the next, its imports paid for. A GPU
        # belongs to the actor that loaded on it.
        if arguments.get("device") == "cuda":
            require_resources(size, gpus=1)
            records = table.map_batches(
                _RayActor, fn_constructor_args=(runner,), batch_size=1, compute=ActorPoolStrategy(size=size), num_gpus=1
            )
        else:
            records = table.map_batches(
                runner, batch_size=1, compute=TaskPoolStrategy(size=size), num_cpus=_cpus_each(size)
            )
        waiting = threading.Timer(_PATIENCE, _say_what_is_free)
        waiting.daemon = True
        waiting.start()
        try:
            for row in records.iter_rows():
                waiting.cancel()
                record = json.loads(row["record"])
                if "error" in record:
                    raise error_of_record(record)
                yield record
        except BclsError:
            raise
        except Exception as error:
            raise own_error(error) or BclsError(f"a piece failed on Ray: {error}") from error
        finally:
            waiting.cancel()


def _say_what_is_free() -> None:
    """Ray waits without a word while others hold the cluster."""
    import ray

    if ray.is_initialized():
        free, there = ray.available_resources(), ray.cluster_resources()
        amounts = ", ".join(f"{free.get(name, 0.0):g} of {there[name]:g} {name}" for name in _AMOUNTS if name in there)
        log.warning("no piece is done after %g s; free in the cluster: %s", _PATIENCE, amounts)


def _cpus_each(workers: int) -> float:
    """CPUs of a worker, and so its threads: a fair share of the smallest node that has any, of which one CPU stays free
    for what feeds the workers. Half a CPU on two-core machines, where whole ones would leave none."""
    import ray

    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    sizes = [cpus for cpus in nodes if cpus]
    on_each_node = -(-workers // max(1, len(sizes)))
    return float(max(0.5, (min(sizes, default=1) - 1) // on_each_node))


def record_of_error(error: BclsError) -> Record:
    """What stands for an error where the error itself could not travel."""
    return {"error": [kind.__name__ for kind in type(error).__mro__], "message": str(error)}


def error_of_record(record: Record) -> BclsError:
    """The error that a record stands for, of its own class or the nearest that `bcls_core.errors` has."""
    kinds = (getattr(errors, name, None) for name in record["error"])
    kind: type[BclsError] = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BclsError))
    return kind(record["message"])


def own_error(error: BaseException) -> BclsError | None:
    """The project's own error inside what Ray wraps around a failure, if there is one."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        candidate = pending.pop()
        if candidate is None or id(candidate) in seen:
            continue
        seen.add(id(candidate))
        if isinstance(candidate, BclsError):
            # Ray's wrapper is a subclass of the class it wraps, with its own long message; the cause is the original.
            original = getattr(candidate, "cause", None)
            return original if isinstance(original, BclsError) else candidate
        failures = getattr(candidate, "worker_failures", None) or {}
        pending += [candidate.__cause__, candidate.__context__, getattr(candidate, "cause", None), *failures.values()]
    return None


def origins(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Who did which piece and how long it took, for the sidecar."""
    return [{"piece": record["piece"], **record["origin"]} for record in records]


def results(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What the pieces returned, in order."""
    return [record["result"] for record in records]


def _split_done(pieces: list[Piece], draft: Draft | None) -> tuple[dict[str, Record], list[Piece]]:
    names = {piece["piece"] for piece in pieces}
    marks = draft.marks() if draft is not None else {}
    done = {name: record for name, record in marks.items() if name in names}
    if done:
        log.info("%d of %d pieces were done before", len(done), len(pieces))
    return done, [piece for piece in pieces if piece["piece"] not in done]


def _collect(done: dict[str, Record], records: Iterable[Record], pieces: list[Piece], what: str) -> None:
    work = {piece["piece"]: int(piece.get("work", 1)) for piece in pieces}
    with progress_bar(what, total=sum(work.values()), completed=sum(work[name] for name in done)) as advance:
        for record in records:
            done[record["piece"]] = record
            advance(work[record["piece"]])
