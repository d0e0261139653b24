"""Two workers over gloo follow the loss curve of one with the joint batch, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.multiprocessing import ProcessRaisedException

from bcls_core.config import CustomStudent
from bcls_core.workers import Workers
from tests.bcls_core.training.conftest import cusa
from tests.bcls_core.training.joint_training import Attempt, observed, train_jointly

STEPS = 50
OBJECTIVE = "triplet", "info-nce", "kendall"
CUSA = "info-nce", "soft-label", "soft-label"


@pytest.mark.slow
@pytest.mark.parametrize("objective", [None, "cusa"])
def test_two_workers_have_the_loss_of_one_in_every_step(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str | None
) -> None:
    """Soft triplets, InfoNCE with a learned temperature and Kendall; and InfoNCE with soft labels across the sides and,
    through heads, within each: two workers' shares add up to the loss of one.

    Measured: the loss falls from 3.2 to 1.3, and in no step differs by more than 1.7e-6 of it.
    """
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    changes = {} if objective is None else {"objective": cusa()}
    alone, together = (ground.begin(f"steps-{name}-{objective}", epochs=6, **changes) for name in ("alone", "together"))
    assert tuple(term.loss for term in alone.settings.objective) == (OBJECTIVE if objective is None else CUSA)
    expected = observed(Attempt(alone, STEPS), Workers()).steps
    (workers,) = train_jointly([Attempt(together, STEPS)], tmp_path / "run")
    assert [len(seen.steps) for seen in workers] == [len(expected)] * 2 == [STEPS] * 2
    found = [sum(shares) for shares in zip(*(seen.steps for seen in workers), strict=True)]
    apart = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(found, expected, strict=True)]
    assert max(apart) < 1e-4
    assert expected[-1] < 0.9 * expected[0]


@pytest.mark.slow
def test_a_student_that_is_used_in_part_is_told_what_to_do_where_exchanges_overlap(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    target = "tests.bcls_core.training.partly_used_student:PartlyUsedStudent"
    job = ground.begin("overlapped-in-part", student=CustomStudent(kind="custom", target=target), epochs=1)
    with pytest.raises(
        ProcessRaisedException, match=r"ConfigError: train\.student.*Set train\.mini_batch_size=\d+: then"
    ):
        train_jointly([Attempt(job, overlapped=True)], tmp_path / "run")
