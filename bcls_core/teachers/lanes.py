"""Work side by side on a CPU: each piece on one thread of its own, so that no piece waits for another's threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

Piece = TypeVar("Piece")
Made = TypeVar("Made")

_AHEAD = 4  # pieces per lane that are ready: enough to keep lanes busy, few enough for the memory


def in_lanes(work: Callable[[Piece], Made], pieces: Iterable[Piece]) -> Generator[Made, None, None]:
    """`work` of every piece, in order, on as many threads as torch has here.

    Torch uses one thread inside each piece, so results do not depend on the number of threads. The pieces are made
    while earlier ones are worked on. An error of `work` or `pieces` ends it, and pieces not yet begun are dropped.
    """
    # Imported here: fingerprints are made before anything heavy is loaded.
    import torch

    threads = torch.get_num_threads()
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            # A thread's own setting is also torch's default for threads that come later.
            torch.set_num_threads(threads)


def records_states(model: Any) -> bool:
    """Whether a model of `transformers` keeps its layers' outputs while it runs, so that only one thread may run it."""
    config = getattr(model, "config", None)
    return any(getattr(config, name, False) for name in ("output_hidden_states", "output_attentions"))
