"""A training that cannot begin ends soon, with an error that says what was asked for and what there was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.processes import Nodes
from tests.faults.records import LONGEST
from tests.faults.train_kills import REPOSITORY, Driver, make_source


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


class Other:
    """Somebody else's actor."""

    def here(self) -> None:
        """Answers once it is there."""
