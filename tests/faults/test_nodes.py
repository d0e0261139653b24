"""Three workers on three nodes: one is lost in the middle of a training, and nobody can tell afterwards."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.counted_student import counted, stepped_on
from tests.faults.hosts import Hosts
from tests.faults.processes import Nodes, freeze, send, titled
from tests.faults.records import LONGEST
from tests.faults.train_kills import (
    REPOSITORY,
    TITLES,
    Calm,
    Driver,
    Run,
    claims_of,
    count_anew,
    make_calm,
)

pytestmark = pytest.mark.timeout(900)

WORKERS = 3
SETTING = f"runtime.workers={WORKERS}"
WORD_VECTORS = 4096 * 8 * 4
"""Bytes of one layer's gradients; each of three workers sends a third more in a step."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    return make_calm(tmp_path_factory.mktemp("nodes"), WORKERS)


@pytest.fixture
def root(calm: Calm, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    shutil.copytree(calm.home / "source", root)
    count_anew(calm.home)
    return root


@pytest.fixture
def hosts(root: Path) -> Iterator[Hosts]:
    """After `root`, which says where steps are counted."""
    hosts = Hosts(WORKERS)
    yield hosts
    hosts.close()


@pytest.mark.slow
def test_a_node_dies(calm: Calm, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    nodes = Nodes(cpus=1, count=WORKERS)
    driver = Driver(root, nodes.address, SETTING)
    try:
        wait_for(driver, lambda: fewest(calm) >= calm.steps // 2)
        assert [len(titled(raylet, TITLES["worker"])) for raylet in nodes.raylets()] == [1, 1, 1]
        victim = nodes.raylets()[1]
        nodes.add()
        send(freeze(victim), signal.SIGKILL)
        nodes.bury(victim)
        go_on(driver, calm)
        assert [len(titled(raylet, TITLES["worker"])) for raylet in nodes.raylets()] == [1, 1, 1]
        driver.finish()
    finally:
        driver.kill()
        nodes.close()
    require_undisturbed(calm, root)


@pytest.mark.slow
@pytest.mark.needs("namespaces")
def test_a_host_loses_power(calm: Calm, root: Path, hosts: Hosts) -> None:
    """Its processes and its link are gone at once, so that nobody is told; a fresh host joins."""
    driver = Driver(root, hosts.address, SETTING, within=hosts.head.within, variables=hosts.environment)
    try:
        wait_for(driver, lambda: fewest(calm) >= 2)
        sent, begun = [hosts.sent(host) for host in hosts.computing], fewest(calm)
        wait_for(driver, lambda: fewest(calm) >= calm.steps // 2)
        require_gradients_sent(hosts, sent, fewest(calm) - begun - 1)
        assert sorted(where(calm)) == ["host-0", "host-1", "host-2"]
        hosts.cut_power(hosts.computing[1])
        hosts.join()
        go_on(driver, calm)
        assert sorted(where(calm)) == ["host-0", "host-2", "host-3"]
        driver.finish()
    finally:
        driver.kill()
    require_undisturbed(calm, root)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.needs("namespaces")
def test_a_cable_is_pulled(calm: Calm, root: Path, hosts: Hosts) -> None:
    """The first worker's, who writes the checkpoints; it lives on, and the cable is put back in when others go on."""
    driver = Driver(root, hosts.address, SETTING, within=hosts.head.within, variables=hosts.environment)
    try:
        wait_for(driver, lambda: fewest(calm) >= calm.steps // 2)
        (lonely,) = [host for host in hosts.computing if host.name == where(calm)[0]]
        hosts.pull_cable(lonely)
        hosts.join()
        go_on(driver, calm)
        assert lonely.name not in where(calm)
        assert titled(lonely.first, TITLES["worker"])
        hosts.plug_cable(lonely)
        driver.finish()
    finally:
        driver.kill()
    require_undisturbed(calm, root)


def wait_for(driver: Driver, happened: Callable[[], bool]) -> None:
    """Until it happened, which must be before the training ends."""
    deadline = time.monotonic() + LONGEST
    while not happened():
        assert driver.process.poll() is None, "the training ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def go_on(driver: Driver, calm: Calm) -> None:
    """Until all ranks begin steps again, of which one may have been at work when the training stood still."""
    begun = max(counted(calm.home / "steps").values())
    wait_for(driver, lambda: fewest(calm) > begun + 1)


def fewest(calm: Calm) -> int:
    """Steps that all ranks began."""
    steps = counted(calm.home / "steps")
    return min(steps.values()) if len(steps) == WORKERS else 0


def where(calm: Calm) -> list[str]:
    """The host of each rank's last step."""
    return [hosts[-1] for _, hosts in sorted(stepped_on(calm.home / "steps").items())]


def require_gradients_sent(hosts: Hosts, before: list[int], steps: int) -> None:
    sent = [hosts.sent(host) - earlier for host, earlier in zip(hosts.computing, before, strict=True)]
    assert steps >= 4
    assert min(sent) > steps * WORD_VECTORS


def require_undisturbed(calm: Calm, root: Path) -> None:
    """After one loss."""
    run = Run([{"kind": "node"}])
    assert [name for name, holds in claims_of(run, calm, root).items() if not holds] == []
