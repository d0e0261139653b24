"""Several pieces of work of one command at once, each in a process of its own with its share of the processors."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from bcls_core.errors import BclsError, StoppedError
from bcls_core.workers import usable_processors
from flows import progress
from flows.backend import Record, error_of_record, record_of_error
from flows.process import begin_process
from flows.stopping import sigterm_noted

_LOOK = 0.5  # seconds between looks whether to stop


@dataclass(frozen=True)
class Work:
    """What a process does.

    Attributes:
        name: what people call it; lines that it prints begin so.
        do: called with `arguments`; both picklable.
    """

    name: str
    do: Callable[..., None]
    arguments: tuple[Any, ...]


def run_side_by_side(works: Sequence[Work], at_once: int, *, on_ray: bool = False) -> None:
    """Does all of it, at most `at_once` at a time; the processors are shared out evenly.

    Processes end when this one does, however it ends. On SIGTERM, Ctrl-C and failures they get SIGTERM, and are waited
    for: trainings leave a checkpoint. A second Ctrl-C does not wait.

    Args:
        on_ray: the work is done on the Ray cluster that this process is connected to, or connects to now.
    Raises:
        SystemExit: SIGTERM arrived: 143.
        BclsError: that of the first that failed; the others have been stopped.
    """
    waiting, running, at_once = deque(works), list[_Running](), max(1, min(at_once, len(works)))
    with _surroundings(at_once, on_ray), sigterm_noted() as noted:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    work = waiting.popleft()
                    progress.say(f"{work.name}: begun, {len(works) - len(waiting)} of {len(works)}")
                    running.append(_Running(work))
                wait([each for one in running for each in one.awaited], timeout=_LOOK)
                if noted.is_set():
                    raise SystemExit(StoppedError.exit_code)
                ended = [one for one in running if one.has_ended()]
                running = [one for one in running if one not in ended]
                for one in ended:
                    one.check()
        finally:
            for one in running:
                one.process.terminate()
            for one in running:
                one.process.join()


class _Running:
    """A process at work."""

    def __init__(self, work: Work) -> None:
        self._name = work.name
        self._error: Record | None = None
        context = multiprocessing.get_context("spawn")
        self._answer, answer = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(target=_do, args=(work, answer), name=work.name, daemon=True)
        self.process.start()
        answer.close()

    @property
    def awaited(self) -> list[Any]:
        """What becomes ready when there is news of it."""
        return [self.process.sentinel, *([] if self._answer.closed else [self._answer])]

    def has_ended(self) -> bool:
        """Also takes what it says of how it failed, which may be more than a pipe holds."""
        ended = self.process.exitcode is not None
        if not self._answer.closed and self._answer.poll():
            with suppress(EOFError):  # it says nothing
                self._error = self._answer.recv()
            self._answer.close()
        return ended

    def check(self) -> None:
        """Raises what the process, which has ended, failed with."""
        code = self.process.exitcode
        self._answer.close()
        if self._error is not None:
            raise error_of_record({**self._error, "message": f"{self._name}: {self._error['message']}"})
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.Signals(-code).name})"
            raise BclsError(
                f"{self._name}: its process ended with {how}; what it said is above. If memory ran out, do less at "
                "once. The same command goes on from the last checkpoint."
            )


def _do(work: Work, answer: Connection) -> None:
    """In a process of its own."""
    begin_process(work.name)
    os.setpgrp()  # Ctrl-C is for who began this process, who says what becomes of it; Ray handles SIGINT as it likes
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    progress.speak_as(work.name)
    try:
        work.do(*work.arguments)
    except BclsError as error:
        answer.send(record_of_error(error))
        raise SystemExit(error.exit_code) from error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _surroundings(at_once: int, on_ray: bool) -> Iterator[None]:
    """What processes begun inside inherit."""
    given = {"OMP_NUM_THREADS": str(max(1, usable_processors() // at_once))}
    if on_ray:
        import ray

        from flows.cluster_session import ensure_ray

        ensure_ray()
        given = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update({name: value for name, value in given.items() if on_ray or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
