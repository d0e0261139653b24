"""A training that cannot begin ends soon, with an error that says what was asked for and what there was."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from bcls_core.store import Store
from tests.faults.counted_student import HUNGER, counted
from tests.faults.processes import Nodes, freeze, send, titled
from tests.faults.records import LONGEST
from tests.faults.train_kills import REPOSITORY, TITLES, Driver, count_anew, make_source


@pytest.mark.slow
def test_workers_that_cannot_start_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster would be large enough, but others are using it: what is left would do for one of two."""
    import ray

    root = make_source(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
    nodes = Nodes(cpus=1)
    try:
        ray.init(address=nodes.address, log_to_driver=False)
        others = [ray.remote(Other).options(num_cpus=cpus).remote() for cpus in (1, 0.5)]
        ray.get([other.here.remote() for other in others])
        driver = Driver(root, nodes.address)
        assert driver.process.wait(LONGEST) == 1, driver.said()
        said = " ".join(driver.said().split())
        assert "It asked for 2 workers with 0.5 CPU each; the cluster has 0.5 of 2 CPU free" in said
        assert "Traceback" not in said
    finally:
        ray.shutdown()
        nodes.close()


@pytest.mark.slow
def test_what_a_killed_controller_had_reserved_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for the workers of one fit only."""
    root = make_source(tmp_path)
    count_anew(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    nodes = Nodes(cpus=1, count=1)
    driver = Driver(root, nodes.address)
    try:
        while not counted(tmp_path / "steps"):
            assert driver.process.poll() is None, driver.said()
            time.sleep(0.02)
        (controller,) = (pid for home in (*nodes.raylets(), nodes.head) for pid in titled(home, TITLES["controller"]))
        send(freeze(controller), signal.SIGKILL)
        driver.finish()
        assert "training is begun again, for its controller failed" in driver.said()
    finally:
        driver.kill()
        nodes.close()


@pytest.mark.slow
@pytest.mark.long
def test_workers_that_take_all_memory_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's memory monitor kills them and whatever else is on their node, Train's controller too, over and over."""
    total, available = _memory()
    room = 4 << 30  # for Ray's own processes, and a few seconds of hunger
    if available < 2 * room:
        pytest.skip("less than 8 GiB of memory are available")
    root = make_source(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(total - available + room) / total:.4f}")
    monkeypatch.setenv(HUNGER, "128")
    nodes = Nodes(cpus=2, count=1)
    try:
        driver = Driver(root, nodes.address)
        assert driver.process.wait(LONGEST) == 1, driver.said()
        said = " ".join(driver.said().split())
        assert "training was killed 3 times for lack of memory, with train.batch_size=16 on 2 workers" in said
        assert "Lower train.mini_batch_size" in said
        assert "Traceback" not in said
        assert not Store(root).list("training", unpublished=True)
    finally:
        nodes.close()


def _memory() -> tuple[int, int]:
    """Bytes of this machine, and those that are available."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    return total, available


class Other:
    """Somebody else's actor."""

    def here(self) -> None:
        """Answers once it is there."""
