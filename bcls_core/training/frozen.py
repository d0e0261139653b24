"""What frozen towers made of a corpus, as training and evaluation read it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.data.rows import CorpusRows
from bcls_core.store import Draft
from bcls_core.students import Student

Side = Literal["images", "captions"]

_FOLDER = "frozen"


@dataclass(frozen=True)
class FeatureTable:
    """Features of all rows of one side of a split, in row order, cut where the corpus's shards are.

    On a local store they are mapped from disk: memory holds what a batch touches.
    """

    parts: list[NDArray[np.float32]]
    starts: NDArray[np.int64]

    def __getstate__(self) -> dict[str, Any]:
        """Mapped files travel as their paths, and are mapped again on arrival."""
        parts = [Path(part.filename) if isinstance(part, np.memmap) and part.filename else part for part in self.parts]
        return {"parts": parts, "starts": self.starts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = [_mapped(part) if isinstance(part, Path) else part for part in state["parts"]]
        self.__dict__.update(parts=parts, starts=state["starts"])

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """(rows,) row numbers -> (rows, features) fp32."""
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        taken = [self.parts[part][row - self.starts[part]] for part, row in zip(part_of, rows, strict=True)]
        return torch.from_numpy(np.stack(taken))


@dataclass(frozen=True)
class FrozenFeatures:
    """The stored features of each side whose tower is frozen; None where it is trained."""

    images: FeatureTable | None = None
    captions: FeatureTable | None = None


def leave_frozen(draft: Draft, side: Side, shard: int, data: bytes) -> None:
    """Puts the features of a shard, a `.npy` file, where `load_frozen` finds them."""
    draft.scratch.write_bytes(f"{_FOLDER}/{name_of_shard(side, shard)}", data)


def load_frozen(draft: Draft, student: Student, rows: CorpusRows) -> FrozenFeatures:
    """What `EncodeFrozenShard` wrote for the shards of one split."""
    return FrozenFeatures(
        images=_load_side(draft, "images", rows) if student.image_tower_frozen else None,
        captions=_load_side(draft, "captions", rows) if student.caption_tower_frozen else None,
    )


def _load_side(draft: Draft, side: Side, rows: CorpusRows) -> FeatureTable:
    parts = []
    for shard in rows.shards:
        name = f"{_FOLDER}/{name_of_shard(side, shard)}"
        path = draft.scratch.local(name)
        if path is not None:
            parts.append(_mapped(Path(path)))
            continue
        with draft.scratch.open(name) as file:
            parts.append(loaded(file.read()))
    return table_of(parts)


def table_of(parts: list[NDArray[np.float32]]) -> FeatureTable:
    return FeatureTable(parts, np.cumsum([0, *(len(part) for part in parts[:-1])]))


def loaded(data: bytes) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def name_of_shard(side: Side, shard: int) -> str:
    return f"{side}-{shard:05d}.npy"
