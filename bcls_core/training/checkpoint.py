"""Where a training stands, written so that a kill at any moment leaves the last complete one."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bcls_core.store import Draft

_CURRENT = "checkpoint.pt"
_BEST = "best.pt"


@dataclass
class TrainingState:
    """Everything the next epoch depends on."""

    epoch: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_rsum: float = float("-inf")


def save_state(draft: Draft, state: TrainingState) -> None:
    """Replaces the checkpoint atomically, and the best weights with it where this epoch is the best."""
    if state.best_epoch == state.epoch:
        draft.scratch.write_bytes(_BEST, _to_bytes({"epoch": state.epoch, "weights": state.weights}))
    draft.scratch.write_bytes(_CURRENT, _to_bytes(vars(state)))


def load_state(draft: Draft) -> TrainingState | None:
    """The last complete checkpoint, or None before the first."""
    return TrainingState(**_load(draft, _CURRENT)) if draft.scratch.exists(_CURRENT) else None


def load_best(draft: Draft) -> dict[str, Tensor]:
    """The trained weights of the best epoch."""
    weights: dict[str, Tensor] = _load(draft, _BEST)["weights"]
    return weights


def _to_bytes(data: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def _load(draft: Draft, path: str) -> dict[str, Any]:
    with draft.scratch.open(path) as file:
        loaded: dict[str, Any] = torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)
    return loaded
