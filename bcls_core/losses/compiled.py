"""Compiled loops over the rows of a matrix, on all of torch's threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

_ROWS = 64  # of a task at most: what is held per row besides the result, such as a sort order, is held for so many
_SERIAL = 2**21  # steps, some 0.3 ns each, below which handing work to threads takes longer than the work


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for this processor on first call, or load what an earlier process compiled; runs without Python's lock.

    Loads the compiler, which takes most of a second: keep such functions in modules that are imported where needed.
    """
    import numba

    try:
        kernel: Callable[..., Any] = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder to keep compiled code in
        kernel = numba.njit(nogil=True)(function)
    return kernel


def over_rows(task: Callable[[slice], None], rows: int, steps: int) -> None:
    """Call `task` with slices that cover `rows`, side by side where the work is worth it.

    Args:
        steps: comparisons of all rows, of the kind that wide registers do; sorting takes some 64 for each element.
    """
    threads = torch.get_num_threads() if steps >= _SERIAL else 1
    length = min(_ROWS, -(-rows // threads))
    parts = [slice(start, start + length) for start in range(0, rows, length)]
    if threads == 1:
        for part in parts:
            task(part)
    else:
        for _ in _pool(threads).map(task, parts):
            pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="bcls-losses")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork inherits the pool, but none of its threads
