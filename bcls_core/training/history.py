"""What a finished training says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bcls_core.store import Artifact, Draft

MODEL = "model"
HISTORY = "history.json"


@dataclass(frozen=True)
class History:
    """Metrics of every epoch; epoch 0 is the untrained student.

    Attributes:
        best_epoch: the one with the highest `val/rsum`; its weights are the model.
    """

    best_epoch: int
    epochs: list[dict[str, float]]

    @property
    def best(self) -> dict[str, float]:
        return self.epochs[self.best_epoch]


def write_history(draft: Draft, history: History) -> None:
    """Leaves the history beside the model."""
    draft.write_bytes(HISTORY, json.dumps(vars(history), indent=1, sort_keys=True).encode())


def read_history(training: Artifact) -> History:
    """The history of a published training."""
    with training.open(HISTORY) as file:
        return History(**json.load(file))
