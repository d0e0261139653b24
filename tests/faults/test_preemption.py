"""A node that will be taken away is announced, and little is lost when it goes."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.faults.counted_student import PAUSE, counted
from tests.faults.processes import Nodes, freeze, send, titled
from tests.faults.records import LONGEST
from tests.faults.train_kills import REPOSITORY, TITLES, Driver, Run, claims_of, count_anew, make_calm

RARELY = "runtime.checkpoint_steps=100000"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_notice_of_preemption_brings_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it there would be none in the middle of an epoch, and the node would take all of its steps along."""
    calm = make_calm(tmp_path)
    root = tmp_path / "preempted"
    shutil.copytree(tmp_path / "source", root)
    count_anew(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv(PAUSE, "1.0")
    nodes = Nodes(cpus=1)
    driver = Driver(root, nodes.address, RARELY)
    try:
        while steps_begun(tmp_path) < 1:
            assert driver.process.poll() is None, driver.said()
            time.sleep(0.05)
        victim = next(home for home in nodes.raylets() if titled(home, TITLES["worker"]))
        before = checkpoints(root)
        nodes.announce(victim, seconds=600)
        nodes.add()
        deadline = time.monotonic() + LONGEST
        while checkpoints(root) == before:
            assert driver.process.poll() is None, driver.said()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        saved = steps_begun(tmp_path)
        assert saved < calm.steps // 3, "in the middle of the first epoch"
        send(freeze(victim), signal.SIGKILL)
        lost = steps_begun(tmp_path) - saved
        nodes.bury(victim)
        driver.finish()
    finally:
        driver.kill()
        nodes.close()
    assert steps_begun(tmp_path) <= calm.steps + lost + 2, "from the checkpoint on, and the step at work"
    holding = {name for name, holds in claims_of(Run(), calm, root).items() if holds}
    assert {"equal content", "no damage", "published once", "no step left out"} <= holding


def steps_begun(home: Path) -> int:
    return max(counted(home / "steps").values(), default=0)


def checkpoints(root: Path) -> set[tuple[str, int]]:
    """Names, and when each was written."""
    return {(path.name, path.stat().st_mtime_ns) for path in root.glob("training/*/_work/scratch/**/checkpoint-*.pt")}
