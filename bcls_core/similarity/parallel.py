"""How arrays are handed to compiled code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bcls_core.compiled import side_by_side

_MOST_ROWS = 512  # of a task


def over_parts(count: int, task: Callable[[slice], None]) -> None:
    """Calls `task` with slices that cover `count` rows, side by side."""
    length = max(1, min(_MOST_ROWS, -(-count // torch.get_num_threads())))
    parts = (slice(start, min(start + length, count)) for start in range(0, count, length))
    side_by_side([partial(task, part) for part in parts])


def read_only(array: Any) -> Any:
    """A view of one type for compiled code, whether the array is mapped from disk or not."""
    view = array.view()
    view.flags.writeable = False
    return view
