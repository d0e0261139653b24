"""A worker and a node are killed while a student is trained, and nobody can tell afterwards."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from bcls_core.store import Store
from bcls_core.training.history import read_history
from tests.faults.counted_student import counted
from tests.faults.processes import Nodes, freeze, send, titled
from tests.faults.records import LONGEST
from tests.faults.train_kills import (
    EPOCHS,
    INTERVAL,
    REPOSITORY,
    TITLES,
    VICTIMS,
    Driver,
    Run,
    campaign,
    claims_of,
    count_anew,
    make_calm,
    make_source,
    plan,
)


@pytest.mark.slow
def test_two_kills_change_nothing(tmp_path: Path) -> None:
    """The campaign kills Ray Train's controller and drivers, too."""
    (record,) = campaign(2, 2, tmp_path)
    assert sorted(kill["kind"] for kill in record["kills"]) == ["node", "worker"]
    assert [kill for kill in record["kills"] if "missed" in kill] == []
    assert record["failed"] == []
    assert record["steps_begun"] >= record["steps"]


@pytest.mark.slow
def test_sigterm_costs_no_step(tmp_path: Path) -> None:
    """The step at work is finished, a checkpoint written and the lock given back; the same command goes on from it."""
    calm = make_calm(tmp_path)
    root = tmp_path / "stopped"
    shutil.copytree(tmp_path / "source", root)
    count_anew(tmp_path)
    driver = Driver(root, None)
    while max(counted(tmp_path / "steps").values(), default=0) < INTERVAL + 2:
        assert driver.process.poll() is None
        time.sleep(0.01)
    driver.process.send_signal(signal.SIGTERM)
    assert driver.process.wait(LONGEST) == 143
    begun = counted(tmp_path / "steps")
    assert len(set(begun.values())) == 1, "all workers stopped after the same step"
    assert INTERVAL + 2 <= begun[0] < calm.steps
    assert Store(root).list("training") == []
    Driver(root, None, "runtime.data_workers=1").finish()  # who prepares inputs changes nothing
    assert [name for name, holds in claims_of(Run(), calm, root).items() if not holds] == []
    assert set(counted(tmp_path / "steps").values()) == {calm.steps}


@pytest.mark.slow
def test_with_fewer_workers_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four workers on two nodes of one processor each; a node dies and nothing takes its place."""
    root = make_source(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    nodes = Nodes(cpus=1)
    try:
        driver = Driver(root, nodes.address, "runtime.workers=4", "runtime.least_workers=2")
        while len(counted(tmp_path / "steps")) < 4 or min(counted(tmp_path / "steps").values()) < INTERVAL + 1:
            assert driver.process.poll() is None
            time.sleep(0.01)
        victim = next(home for home in nodes.raylets() if titled(home, TITLES["worker"]))
        before = counted(tmp_path / "steps")
        send(freeze(victim), signal.SIGKILL)
        nodes.bury(victim)
        driver.finish()
    finally:
        nodes.close()
    history = read_history(Store(root).current("training"))
    assert len(history.epochs) == 1 + EPOCHS
    steps, total = counted(tmp_path / "steps"), EPOCHS * 64 * 5 // 16
    assert total <= steps[0] <= total + INTERVAL + 1
    assert steps[3] <= before[3] + 1, "the fourth worker was not there any more"


def test_the_plan_spreads_kills_over_kinds() -> None:
    runs = plan(24, 0)
    kills = [kill for run in runs for kill in run]
    assert len(runs) == 12
    assert {victim: sum(kill.victim == victim for kill in kills) for victim in VICTIMS} == dict.fromkeys(VICTIMS, 6)
    assert all(0 < kill.share < 1 for kill in kills)
    assert all(run == sorted(run, key=lambda kill: kill.share) for run in runs)
    assert plan(24, 0) == runs != plan(24, 1)
