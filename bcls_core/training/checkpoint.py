"""Where a training stands, written so that a kill at any moment leaves the last complete one."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bcls_core.store import Draft

_CURRENT = "checkpoint.pt"
_PROGRESS = "progress.json"


@dataclass
class TrainingState:
    """Everything the next epoch depends on: of the student, of the losses (learned temperatures), of the optimiser."""

    epoch: int
    weights: dict[str, Tensor]
    objective: dict[str, Tensor]
    optimiser: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_rsum: float = float("-inf")


def save_state(draft: Draft, state: TrainingState) -> None:
    """Replaces the checkpoint atomically; where this epoch is the best, its weights are there before and stay.

    The best weights are named by their epoch, so a kill between the two writes leaves those that the checkpoint means.
    """
    if state.best_epoch == state.epoch:
        draft.scratch.write_bytes(_best(state.epoch), _to_bytes({"weights": state.weights}))
    draft.scratch.write_bytes(_CURRENT, _to_bytes(vars(state)))
    draft.scratch.write_bytes(_PROGRESS, json.dumps({"epochs": state.epoch + 1}).encode())
    for name in draft.scratch.names():
        if name.startswith("best-") and name != _best(state.best_epoch):
            draft.scratch.remove(name)


def load_state(draft: Draft) -> TrainingState | None:
    """The last complete checkpoint, or None before the first."""
    return TrainingState(**_load(draft, _CURRENT)) if draft.scratch.exists(_CURRENT) else None


def load_best(draft: Draft, state: TrainingState) -> dict[str, Tensor]:
    """The trained weights of the best epoch."""
    weights: dict[str, Tensor] = _load(draft, _best(state.best_epoch))["weights"]
    return weights


def finished_epochs(draft: Draft) -> int:
    """Epochs with a checkpoint, the untrained student's included; cheap, for whoever watches."""
    if not draft.scratch.exists(_PROGRESS):
        return 0
    with draft.scratch.open(_PROGRESS) as file:
        return int(json.load(file)["epochs"])


def _best(epoch: int) -> str:
    return f"best-{epoch:05d}.pt"


def _to_bytes(data: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def _load(draft: Draft, path: str) -> dict[str, Any]:
    with draft.scratch.open(path) as file:
        loaded: dict[str, Any] = torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)
    return loaded
