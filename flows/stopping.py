"""Ways in which a training is asked to stop: SIGTERM to its driver, and from there a file that its workers look for."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from bcls_core.store.scratch import Scratch

log = logging.getLogger(__name__)

_POLL = 0.5  # seconds
_ONE_WISH = 5.0  # seconds; who stops a tree of processes signals each, and a parent passes the wish on


@contextmanager
def sigterm_noted(then: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """Inside, the first SIGTERM is noted instead of ending the process, and `then` is called; one that comes later does
    end it, if it comes so much later that it is another wish.

    Without effect outside of the main thread, which is the one that Python tells of signals.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before, first = signal.getsignal(signal.SIGTERM), 0.0

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        nonlocal first
        if noted.is_set():
            if time.monotonic() - first > _ONE_WISH:
                signal.signal(signal.SIGTERM, before)
                signal.raise_signal(signal.SIGTERM)
            return
        first = time.monotonic()
        noted.set()
        try:
            then()
        except Exception as error:  # a store that is away: the workers are not told, the next SIGTERM ends them
            log.warning("the workers could not be asked to stop: %s", error)

    signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def file_awaited(scratch: Scratch, name: str, awaited: bool) -> Iterator[threading.Event]:
    """Set once the file is there; one worker looks, the others hear of it with the next step."""
    there, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(_POLL):
            try:
                if scratch.exists(name):
                    there.set()
                    return
            except Exception as error:  # a store that does not answer now may do so later
                log.debug("whether to stop is not known: %s", error)

    watcher = threading.Thread(target=look, name="stop-file", daemon=True)
    if awaited:
        watcher.start()
    try:
        yield there
    finally:
        over.set()
        if awaited:
            watcher.join()
