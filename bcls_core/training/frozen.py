"""A frozen tower sees each image and caption once; training then reads its features from disk."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcls_core.config import Split
from bcls_core.data.rows import CorpusRows
from bcls_core.store import Artifact, Draft
from bcls_core.students import Student, TwoTower
from bcls_core.teachers.lanes import in_lanes
from bcls_core.training.initial import load_initial

_BATCH, _BATCH_BESIDE = 64, 8


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


class EncodeFrozenShard:
    """Piece worker: the frozen towers' features of one corpus shard."""

    def __init__(self, corpus: Artifact, draft: Draft, device: str) -> None:
        self._corpus = corpus
        self._draft = draft
        student: nn.Module = load_initial(self._draft).to(device).eval()
        self._student = cast(Student, student.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self._device = device
        self._rows: dict[str, CorpusRows] = {}

    def __call__(self, piece: dict[str, Any]) -> dict[str, Any]:
        split: Split = piece["split"]
        rows = self._rows.setdefault(split, CorpusRows(self._corpus, split))
        image_rows, caption_rows = rows.rows_of_shard(piece["shard"])
        if self._student.image_tower_frozen:
            self._write("images", piece, self._encode_images(rows, image_rows))
        if self._student.caption_tower_frozen:
            self._write("captions", piece, self._encode_captions(rows, caption_rows))
        return {"images": len(image_rows), "captions": len(caption_rows)}

    def _encode_images(self, rows: CorpusRows, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        def encode(part: NDArray[np.int64]) -> Tensor:
            prepared = self._student.preprocessor.prepare_images(rows.images(part))
            return self._student.frozen_image_features(self._to_device(prepared))

        return self._encode(encode, numbers)

    def _encode_captions(self, rows: CorpusRows, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        def encode(part: NDArray[np.int64]) -> Tensor:
            prepared = self._student.preprocessor.prepare_captions(rows.captions(part))
            return self._student.frozen_caption_features(self._to_device(prepared))

        return self._encode(encode, numbers)

    def _encode(self, encode: Callable[[NDArray[np.int64]], Tensor], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """In batches; on a CPU small ones side by side, whose maps stay in the processors' caches."""
        beside = self._device == "cpu" and isinstance(self._student, TwoTower) and self._student.frozen_towers_are_pure
        size = _BATCH_BESIDE if beside else _BATCH
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        batches = [*in_lanes(encode, parts)] if beside else [*map(encode, parts)]
        return torch.cat(batches).float().cpu().numpy() if batches else np.zeros((0, 0), np.float32)

    def _to_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self._device) for name, tensor in inputs.items()}

    def _write(self, side: str, piece: dict[str, Any], features: NDArray[np.float32]) -> None:
        buffer = io.BytesIO()
        np.save(buffer, features, allow_pickle=False)
        self._draft.scratch.write_bytes(_path(side, piece["shard"]), buffer.getvalue())


def load_frozen(draft: Draft, student: Student, rows: CorpusRows) -> FrozenFeatures:
    """What `EncodeFrozenShard` wrote for the shards of one split."""
    return FrozenFeatures(
        images=_load_side(draft, "images", rows) if student.image_tower_frozen else None,
        captions=_load_side(draft, "captions", rows) if student.caption_tower_frozen else None,
    )


def _load_side(draft: Draft, side: str, rows: CorpusRows) -> FeatureTable:
    parts = []
    for shard in rows.shards:
        path = draft.scratch.local(_path(side, shard))
        if path is not None:
            parts.append(_mapped(Path(path)))
            continue
        with draft.scratch.open(_path(side, shard)) as file:
            parts.append(np.load(io.BytesIO(file.read()), allow_pickle=False))
    return FeatureTable(parts, np.cumsum([0, *(len(part) for part in parts[:-1])]))


def _mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _path(side: str, shard: int) -> str:
    return f"frozen/{side}-{shard:05d}.npy"
