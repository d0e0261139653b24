"""A worker, a node and a driver are killed in label jobs on Ray, and nobody can tell afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.label_kills import OF_DRIVER, STAGES, VICTIMS, campaign, plan


@pytest.mark.slow
def test_a_kill_of_each_kind_changes_nothing(tmp_path: Path) -> None:
    records = list(campaign(3, 0, tmp_path, embeddings=False))
    struck = [kill["kind"] for record in records for kill in record["kills"] if "missed" not in kill]
    assert sorted(struck) == sorted(VICTIMS)
    assert [record["failed"] for record in records] == [[]] * len(records)


def test_the_plan_spreads_kills_over_kinds_and_stages() -> None:
    runs = plan(27, 0)
    kills = [kill for run in runs for kill in run]
    assert len(kills) == 27
    assert {kill.stage for kill in kills if kill.victim == "driver"} == set(STAGES)
    for victim in ("worker", "node"):
        assert {kill.stage for kill in kills if kill.victim == victim} == set(STAGES) - set(OF_DRIVER)
    order = list(STAGES)
    assert all(run == sorted(run, key=lambda kill: order.index(kill.stage)) for run in runs)
    assert plan(27, 0) == runs != plan(27, 1)
