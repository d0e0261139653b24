"""Compiled loops over the rows of a matrix, on all of torch's threads."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ROWS = 64  # of a task by default: what a task holds per row, such as a sort order, is held for so many
_SERIAL = 2**21  # steps, some 0.3 ns each, below which handing work to threads takes longer than the work


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for this processor on first call, or load what an earlier process compiled; runs without Python's lock.

    Loads the compiler, which takes most of a second: keep such functions in modules that are imported where needed.
    """
    import numba

    try:
        kernel = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder to keep compiled code in
        kernel = numba.njit(nogil=True)(function)
    _stamp(kernel._cache)
    kernel._cache = _Forgiving(kernel._cache)
    compiled_function: Callable[..., Any] = kernel
    return compiled_function


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function for compiled code that is written in the compiler's own terms; see `numba.extending.intrinsic`."""
    from numba.extending import intrinsic as made

    return made(function)


def _stamp(of_function: Any) -> None:
    """Makes code that was kept stale when any file with kernels changes: numba itself looks at the function's own file,
    and not at those of what it calls."""
    kept = getattr(of_function, "_cache_file", None)
    if kept is not None:
        kept._source_stamp = (kept._source_stamp, _sources_digest())


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        content = path.read_bytes()
        if b"bcls_core.compiled" in content:
            digest.update(content)
    return digest.hexdigest()


class _Forgiving:
    """numba's cache of compiled code, whose damaged files and full disks are no reason to stop: code is compiled anew.

    numba knows the cache by the methods below and lets their errors through to whoever called the function.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return self._cache.load_overload(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._tell("read", error)
            return None

    def save_overload(self, *arguments: Any) -> None:
        try:
            self._cache.save_overload(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._tell("keep", error)

    def _tell(self, doing: str, error: Exception) -> None:
        logger.warning(
            "cannot %s compiled code in %s (%s: %s); every process compiles it anew until that folder is repaired, or "
            "NUMBA_CACHE_DIR names another.",
            doing,
            self._cache.cache_path,
            type(error).__name__,
            error,
        )


def over_rows(task: Callable[[slice], None], rows: int, steps: int, most: int = _ROWS) -> None:
    """Call `task` with slices that cover `rows`, side by side where the work is worth it.

    Args:
        steps: comparisons of all rows, of the kind that wide registers do; sorting takes some 64 for each element.
        most: rows of a task.
    """
    if not rows:
        return
    threads = torch.get_num_threads() if steps >= _SERIAL else 1
    length = min(most, -(-rows // threads))
    parts = [slice(start, start + length) for start in range(0, rows, length)]
    if threads == 1:
        for part in parts:
            task(part)
    else:
        for _ in _pool(threads).map(task, parts):
            pass


def side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """What the tasks return, in order; on torch's number of threads, of which each takes the next task when free.

    For tasks that spend their time in compiled code: Python's lock is theirs for the rest.
    """
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        return [task() for task in tasks]
    return list(_pool(torch.get_num_threads()).map(lambda task: task(), tasks))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="bcls-rows")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork inherits the pool, but none of its threads
