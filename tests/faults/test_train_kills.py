"""A worker and a node are killed while a student is trained, and nobody can tell afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.train_kills import VICTIMS, campaign, plan


@pytest.mark.slow
def test_two_kills_change_nothing(tmp_path: Path) -> None:
    """The campaign kills Ray Train's controller and drivers, too."""
    (record,) = campaign(2, 2, tmp_path)
    assert sorted(kill["kind"] for kill in record["kills"]) == ["node", "worker"]
    assert [kill for kill in record["kills"] if "missed" in kill] == []
    assert record["failed"] == []
    assert record["steps_begun"] >= record["steps"]


def test_the_plan_spreads_kills_over_kinds() -> None:
    runs = plan(24, 0)
    kills = [kill for run in runs for kill in run]
    assert len(runs) == 12
    assert {victim: sum(kill.victim == victim for kill in kills) for victim in VICTIMS} == dict.fromkeys(VICTIMS, 6)
    assert all(0 < kill.share < 1 for kill in kills)
    assert all(run == sorted(run, key=lambda kill: kill.share) for run in runs)
    assert plan(24, 0) == runs != plan(24, 1)
