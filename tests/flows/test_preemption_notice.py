"""When training looks for notices of preemption, and how often it writes checkpoints then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bcls_core.workers import Workers
from flows import fit_on_ray
from flows.fit_on_ray import PreemptionNotice


class World:
    """A clock, and what Ray knows."""

    def __init__(self) -> None:
        self.now, self.info = 1000.0, None

    def announce(self, *nodes: str) -> None:
        self.info: Any = SimpleNamespace(preempted_node_ids=nodes)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    import ray.train

    world = World()
    monkeypatch.setattr(fit_on_ray, "time", SimpleNamespace(monotonic=lambda: world.now))
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: world.info)
    return world


def saves(world: World, notice: PreemptionNotice, seconds: float, *, step: float, save: float) -> list[float]:
    """When checkpoints begin, from now on."""
    begun, found = world.now, []
    while world.now < begun + seconds:
        world.now += step
        if notice.due() and notice.given():
            found.append(world.now - begun)
            world.now += save
    return found


def test_without_a_notice_there_are_none(world: World) -> None:
    assert saves(world, PreemptionNotice(Workers(), 10.0), 1000, step=1, save=1) == []


def test_they_come_every_ten_seconds_and_rarely_later(world: World) -> None:
    notice = PreemptionNotice(Workers(), 10.0)
    world.announce("a")
    found = saves(world, notice, 1000, step=1, save=1)
    assert found[:3] == [10, 22, 34]
    assert len(found) == 12 + 3, "and at the looks 16, 32 and 64"
    world.announce("a", "b")
    assert saves(world, notice, 30, step=1, save=1)[0] <= 12, "another notice is seen as soon as the first was"


def test_slow_checkpoints_take_a_fifth_of_the_time(world: World) -> None:
    notice = PreemptionNotice(Workers(), 10.0)
    world.announce("a")
    found = saves(world, notice, 1000, step=1, save=30)
    assert 6 <= len(found) <= 1 + 1000 / (5 * 30)


def test_only_the_first_worker_looks_at_its_clock(world: World) -> None:
    notice = PreemptionNotice(Workers(1, 2), 10.0)
    world.announce("a")
    world.now += 100
    assert not notice.due()
    assert notice.given(), "where the first one asks, all see the same"
