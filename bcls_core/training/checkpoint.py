"""Where a training stands, written so that a kill at any moment leaves the last complete one.

Every attempt at a training has a number, claimed exclusively, and files of its own: `attempt-N`, `checkpoint-N.pt` and
`best-N-EPOCH.pt`. An attempt that others gave up as dead may still write; what it writes has a lower number than what
took its place, and is not looked at again.
"""

from __future__ import annotations

import errno
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bcls_core.errors import StoreError
from bcls_core.store import Draft
from bcls_core.workers import Workers

_PROGRESS = "progress.json"
_TRIES = 5
_NAME = re.compile(r"(attempt|checkpoint|best)-(\d{6})\b.*")


@dataclass
class TrainingState:
    """Everything the next step depends on.

    Attributes:
        epoch: epochs that are finished.
        step: steps that are done of the epoch after them.
        weights: of the student, those that are ever trained.
        objective: of the losses (learned temperatures).
        average: of the moving average of the weights; empty without one.
        sums: what the means of the epoch at work are made of.
        history: metrics of the untrained student and of each finished epoch.
    """

    epoch: int
    weights: dict[str, Tensor]
    objective: dict[str, Tensor]
    optimiser: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_rsum: float = float("-inf")
    step: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one attempt at a training; `begin` is the same for all its workers, the first one writes."""

    def __init__(self, draft: Draft, workers: Workers, device: torch.device) -> None:
        self._scratch, self._url, self._workers, self._device = draft.scratch, draft.url, workers, device
        self._attempt = 0

    def begin(self) -> TrainingState | None:
        """Begins an attempt where the newest one before it stood; None where nothing was trained yet.

        What is taken over is copied first, so that no earlier attempt can change it any more.
        """
        claimed = self._claim() if self._workers.is_first else (0, 0)
        self._attempt, there = self._workers.sum(torch.tensor(claimed, device=self._device)).tolist()
        return TrainingState(**self._load(_checkpoint(self._attempt))) if there else None

    def save(self, state: TrainingState, best: dict[str, Tensor] | None = None) -> None:
        """Replaces the checkpoint atomically.

        Args:
            best: weights of the model that is the best so far; None where that is still an earlier epoch's. They are
                there before the checkpoint, named by their epoch, so a kill between the two leaves those that it means.
        Raises:
            StoreError: no space is left; the checkpoint before is still there.
        """
        if not self._workers.is_first:
            return
        try:
            if best is not None:
                self._write(_best(self._attempt, state.best_epoch), {"weights": best})
            self._write(_checkpoint(self._attempt), vars(state))
            self._scratch.write_bytes(_PROGRESS, json.dumps({"epochs": state.epoch + 1}).encode())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreError(
                f"{self._url}: no space is left for the checkpoint after epoch {state.epoch} and {state.step} steps. "
                "The one before is kept: free some space, then run the same command again to go on from there."
            ) from error
        self._tidy(_best(self._attempt, state.best_epoch))

    def best(self, state: TrainingState) -> dict[str, Tensor]:
        """The trained weights of the best epoch."""
        weights: dict[str, Tensor] = self._load(_best(self._attempt, state.best_epoch))["weights"]
        return weights

    def require_newest(self) -> None:
        """To be called before a result is written that all attempts write to one place.

        Raises:
            StoreError: another attempt began since; the result is left to it.
        """
        newest = max((number for _, number in self._files()), default=0)
        if newest > self._attempt:
            raise StoreError(
                f"{self._url}: attempt {newest} at this training began while attempt {self._attempt} was at work, and "
                "goes on from its checkpoint. The result is left to it."
            )

    def _claim(self) -> tuple[int, int]:
        """The number of this attempt, and whether there is a checkpoint of it now."""
        attempt = max((number for _, number in self._files()), default=0) + 1
        while not self._scratch.create(f"attempt-{attempt:06d}", b""):
            attempt += 1
        for _ in range(_TRIES):
            stood = [number for kind, number in self._files() if kind == "checkpoint" and number < attempt]
            if not stood:
                return attempt, 0
            try:
                self._take_over(max(stood), attempt)
            except FileNotFoundError:  # other attempts are at work still, and replace or remove their files
                continue
            return attempt, 1
        raise StoreError(
            f"{self._url}: other attempts at this training keep changing its checkpoints. End them, then run again."
        )

    def _take_over(self, earlier: int, attempt: int) -> None:
        content = self._read(_checkpoint(earlier))
        best_epoch = TrainingState(**self._from_bytes(content, _checkpoint(earlier))).best_epoch
        best = self._read(_best(earlier, best_epoch))
        self._scratch.write_bytes(_best(attempt, best_epoch), best)
        self._scratch.write_bytes(_checkpoint(attempt), content)

    def _files(self) -> list[tuple[str, int]]:
        found = (_NAME.fullmatch(name) for name in self._scratch.names())
        return [(match[1], int(match[2])) for match in found if match]

    def _tidy(self, best: str) -> None:
        """Removes what earlier attempts left, and models that are the best no longer."""
        kept = {f"attempt-{self._attempt:06d}", _checkpoint(self._attempt), best}
        for name in self._scratch.names():
            match = _NAME.fullmatch(name)
            if match and int(match[2]) <= self._attempt and name not in kept:
                self._scratch.remove(name)

    def _write(self, path: str, data: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(data, buffer)
        self._scratch.write_bytes(path, buffer.getvalue())

    def _read(self, path: str) -> bytes:
        with self._scratch.open(path) as file:
            return file.read()

    def _load(self, path: str) -> dict[str, Any]:
        return self._from_bytes(self._read(path), path)

    def _from_bytes(self, content: bytes, path: str) -> dict[str, Any]:
        try:
            loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch and pickle raise what they like
            raise StoreError(
                f"{self._url}: its file {path} of {len(content)} bytes cannot be read ({type(error).__name__}). "
                "Remove this draft's folder, which begins the training anew, or put the file back from a copy."
            ) from error
        return loaded


def finished_epochs(draft: Draft) -> int:
    """Epochs with a checkpoint, the untrained student's included; cheap, for whoever watches."""
    if not draft.scratch.exists(_PROGRESS):
        return 0
    with draft.scratch.open(_PROGRESS) as file:
        return int(json.load(file)["epochs"])


def _checkpoint(attempt: int) -> str:
    return f"checkpoint-{attempt:06d}.pt"


def _best(attempt: int, epoch: int) -> str:
    return f"best-{attempt:06d}-{epoch:05d}.pt"
