"""What a training that Ray gave up says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flows.fit_on_ray import _died, _not_carried_out

# As Ray writes it, the lines on processes left out.
STARVED = """Training failed due to controller error:
2 worker(s) were killed due to the node running low on memory.
Memory on the node (IP: 192.0.2.2, ID: 5f1d) was 6.31GB used / 23.54GB limit (0.268039)
Top 10 memory users: PID MEM(GB) COMMAND
"""


def of(*, mini_batch_size: int | None = None) -> tuple[Any, Any]:
    """The context and the training that a message needs."""
    settings = SimpleNamespace(batch_size=4096, mini_batch_size=mini_batch_size)
    return SimpleNamespace(runtime=SimpleNamespace(workers=8)), SimpleNamespace(settings=settings, device="cpu")


@pytest.mark.parametrize(("pieces", "encoded"), [(None, 512), (64, 64)])
def test_lack_of_memory_of_workers_names_memory_and_batch_size(pieces: int | None, encoded: int) -> None:
    failed = SimpleNamespace(worker_failures={3: RuntimeError("worker 3 left"), 5: RuntimeError(STARVED)})
    said = str(_died(failed, *of(mini_batch_size=pieces), 3))
    assert "killed 3 times for lack of memory, with train.batch_size=4096 on 8 workers" in said
    assert f"{encoded} captions encoded at once by each. Lower train.mini_batch_size" in said
    assert said.endswith("Ray says: 2 worker(s) were killed due to the node running low on memory.")


def test_so_does_lack_of_memory_of_the_controller() -> None:
    said = str(_not_carried_out(RuntimeError(STARVED), *of(), 3))
    assert "killed 3 times for lack of memory, with train.batch_size=4096 on 8 workers" in said
    assert "Top 10" not in said


def test_other_failures_are_told_as_they_are() -> None:
    failed: Any = RuntimeError("worker 3: a bus error")
    failed.worker_failures = {3: RuntimeError("a bus error")}
    assert str(_died(failed, *of(), 3)) == "training failed on its workers, 3 times: worker 3: a bus error"
