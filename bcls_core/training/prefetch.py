"""The next batches are made while the current one is trained on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates `make(0), make(1), …` in order, made ahead by one thread.

    An exception in `make` is raised where the item would have been yielded. Leaving the loop early stops the thread.
    """

    def __init__(self, make: Callable[[int], T], count: int, depth: int = 2) -> None:
        """
        Args:
            depth: items that wait at most; 0: each is made when it is asked for, without a thread.
        """
        self._make, self._count, self._depth = make, count, depth
        self._ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self.stalled_seconds = 0.0

    def __iter__(self) -> Iterator[T]:
        return self._ahead() if self._depth else self._in_time()

    def _in_time(self) -> Iterator[T]:
        for index in range(self._count):
            started = time.perf_counter()
            item = self._make(index)
            self.stalled_seconds += time.perf_counter() - started
            yield item

    def _ahead(self) -> Iterator[T]:
        thread = threading.Thread(target=self._fill, name="batch-prefetch", daemon=True)
        thread.start()
        try:
            for _ in range(self._count):
                started = time.perf_counter()
                item = self._ready.get()
                self.stalled_seconds += time.perf_counter() - started
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stopped.set()
            thread.join()

    def _fill(self) -> None:
        for index in range(self._count):
            try:
                item: T | BaseException = self._make(index)
            except BaseException as error:  # a panic of compiled code is no Exception, and nobody else hears of it
                item = error
            while not self._stopped.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if self._stopped.is_set() or isinstance(item, BaseException):
                return
