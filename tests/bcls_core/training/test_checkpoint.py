"""Checkpoints: what an attempt wrote is what the next one begins with, whatever was killed and whoever still writes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from bcls_core.errors import StoreError
from bcls_core.store import Draft, Store
from bcls_core.training.checkpoint import Checkpoints, TrainingState, finished_epochs
from bcls_core.workers import Workers


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Store(tmp_path).draft("training", "v1")


def attempt(draft: Draft) -> tuple[Checkpoints, TrainingState | None]:
    checkpoints = Checkpoints(draft, Workers(), torch.device("cpu"))
    return checkpoints, checkpoints.begin()


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), value)}


def state(epoch: int, best_epoch: int, step: int = 0) -> TrainingState:
    return TrainingState(
        epoch, weights(epoch), {}, {"state": {}, "param_groups": []}, [{"val/rsum": 1.0}], best_epoch, 1.0, step
    )


def save(checkpoints: Checkpoints, epoch: int, best_epoch: int, step: int = 0) -> None:
    checkpoints.save(state(epoch, best_epoch, step), weights(epoch) if epoch == best_epoch and not step else None)


def files(draft: Draft) -> list[str]:
    return [name for name in draft.scratch.names() if name.endswith(".pt")]


@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_checkpoint_is_named_with_what_to_do(draft: Draft, left: int) -> None:
    checkpoints, _ = attempt(draft)
    save(checkpoints, 0, 0)
    with draft.scratch.open("checkpoint-000001.pt") as file:
        content = file.read()
    draft.scratch.write_bytes("checkpoint-000001.pt", content[:left])
    message = rf"{draft.version}.*checkpoint-000001\.pt of {left} bytes cannot be read.*Remove this draft's folder"
    with pytest.raises(StoreError, match=message):
        attempt(draft)


def test_the_best_weights_outlive_later_epochs(draft: Draft) -> None:
    checkpoints, before = attempt(draft)
    assert before is None
    assert finished_epochs(draft) == 0
    for epoch, best in ((0, 0), (1, 1), (2, 1), (3, 1)):
        save(checkpoints, epoch, best)
    save(checkpoints, 3, 1, step=7)
    assert files(draft) == ["best-000001-00001.pt", "checkpoint-000001.pt"]
    again, last = attempt(draft)
    assert last is not None
    assert (last.epoch, last.step, last.best_epoch) == (3, 7, 1)
    assert again.best(last)["w"].tolist() == [1.0, 1.0]
    assert finished_epochs(draft) == 4
    save(again, 4, 1)
    assert files(draft) == ["best-000002-00001.pt", "checkpoint-000002.pt"], "nothing of the attempt before is left"


@pytest.mark.parametrize("deadly", ["best", "checkpoint"])
@pytest.mark.parametrize("when", ["saving", "beginning"])
def test_a_kill_leaves_the_checkpoint_before(
    draft: Draft, monkeypatch: pytest.MonkeyPatch, deadly: str, when: str
) -> None:
    checkpoints, _ = attempt(draft)
    save(checkpoints, 1, 1)
    write = type(draft.scratch).write_bytes

    def killed(scratch: object, path: str, data: bytes) -> None:
        if path.startswith(deadly):
            raise KeyboardInterrupt
        write(scratch, path, data)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(type(draft.scratch), "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            save(checkpoints, 2, 2) if when == "saving" else attempt(draft)
    again, before = attempt(draft)
    assert before is not None
    assert before.epoch == 1
    assert again.best(before)["w"].tolist() == [1.0, 1.0]


def test_an_older_attempt_that_still_writes_never_wins(draft: Draft) -> None:
    older, _ = attempt(draft)
    save(older, 1, 1)
    newer, before = attempt(draft)
    assert before is not None
    save(older, 2, 2)
    save(older, 9, 9)
    assert newer.best(before)["w"].tolist() == [1.0, 1.0], "not even before the newer one wrote anything"
    save(newer, 2, 1)
    save(older, 10, 10)
    third, found = attempt(draft)
    assert found is not None
    assert (found.epoch, found.best_epoch) == (2, 1)
    assert third.best(found)["w"].tolist() == [1.0, 1.0]


def test_attempts_that_begin_at_once_have_numbers_of_their_own(draft: Draft) -> None:
    first, _ = attempt(draft)
    second, _ = attempt(draft)
    save(first, 1, 1)
    save(second, 2, 2)
    _, found = attempt(draft)
    assert found is not None
    assert found.epoch == 2


def test_what_is_taken_over_may_be_gone_for_a_newer_one(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three attempts: while the third looks for the first one's checkpoint, the second takes it over and removes it."""
    older, _ = attempt(draft)
    save(older, 1, 1)
    second = Checkpoints(draft, Workers(), torch.device("cpu"))
    opened = type(draft.scratch).open
    begun = False

    def late(scratch: object, path: str) -> object:
        nonlocal begun
        if path == "checkpoint-000001.pt" and not begun:
            begun = True
            second.begin()
            save(second, 2, 2)
        return opened(scratch, path)  # type: ignore[arg-type]

    monkeypatch.setattr(type(draft.scratch), "open", late)
    monkeypatch.setattr(second, "_claim", lambda: claim_as(second, 2))
    third = Checkpoints(draft, Workers(), torch.device("cpu"))
    draft.scratch.create("attempt-000002", b"")
    found = third.begin()
    assert found is not None
    assert found.epoch == 2


def claim_as(checkpoints: Checkpoints, number: int) -> tuple[int, int]:
    checkpoints._take_over(1, number)
    return number, 1


def test_an_attempt_leaves_the_result_to_a_newer_one(draft: Draft) -> None:
    older, _ = attempt(draft)
    save(older, 1, 1)
    older.require_newest()
    newer, _ = attempt(draft)
    newer.require_newest()
    with pytest.raises(StoreError, match="attempt 2 at this training began while attempt 1 was at work"):
        older.require_newest()


def test_what_is_taken_over_may_change_meanwhile(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best weights that a checkpoint means are gone when they are read: a better one was found."""
    older, _ = attempt(draft)
    save(older, 1, 1)
    opened = type(draft.scratch).open

    def late(scratch: object, path: str) -> object:
        if path == "best-000001-00001.pt" and draft.scratch.exists(path):
            save(older, 2, 2)
        return opened(scratch, path)  # type: ignore[arg-type]

    monkeypatch.setattr(type(draft.scratch), "open", late)
    newer, before = attempt(draft)
    assert before is not None
    assert before.epoch == before.best_epoch == 2
    assert newer.best(before)["w"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_checkpoint_before_and_is_said(
    draft: Draft, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    checkpoints, _ = attempt(draft)
    save(checkpoints, 1, 1)

    def full(*_: object) -> None:
        raise OSError(number, "full")

    with monkeypatch.context() as patched:
        patched.setattr(type(draft.scratch), "write_bytes", full)
        with pytest.raises(StoreError, match=r"no space is left .* epoch 1 and 5 steps.*free some space"):
            save(checkpoints, 1, 1, step=5)
    _, before = attempt(draft)
    assert before is not None
    assert (before.epoch, before.step) == (1, 0)
