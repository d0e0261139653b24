"""Checkpoints: the best epoch's weights stay, and belong to the checkpoint that names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bcls_core.store import Draft, Store
from bcls_core.training.checkpoint import TrainingState, finished_epochs, load_best, load_state, save_state


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Store(tmp_path).draft("training", "v1")


def state(epoch: int, best_epoch: int) -> TrainingState:
    weights = {"w": torch.full((2,), float(epoch))}
    return TrainingState(epoch, weights, {}, {"state": {}, "param_groups": []}, [{"val/rsum": 1.0}], best_epoch, 1.0)


def test_the_best_weights_outlive_later_epochs(draft: Draft) -> None:
    assert load_state(draft) is None
    assert finished_epochs(draft) == 0
    for epoch, best in ((0, 0), (1, 1), (2, 1), (3, 1)):
        save_state(draft, state(epoch, best))
    last = load_state(draft)
    assert last is not None
    assert (last.epoch, last.best_epoch) == (3, 1)
    assert load_best(draft, last)["w"].tolist() == [1.0, 1.0]
    assert finished_epochs(draft) == 4
    assert [name for name in draft.scratch.names() if name.startswith("best")] == ["best-00001.pt"]


def test_a_kill_between_the_two_writes_leaves_the_pair_before(draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(draft, state(1, 1))
    write = type(draft.scratch).write_bytes

    def killed(scratch: object, path: str, data: bytes) -> None:
        if path == "checkpoint.pt":
            raise KeyboardInterrupt
        write(scratch, path, data)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(type(draft.scratch), "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(draft, state(2, 2))
    before = load_state(draft)
    assert before is not None
    assert before.epoch == 1
    assert load_best(draft, before)["w"].tolist() == [1.0, 1.0]
