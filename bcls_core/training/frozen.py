"""A frozen tower sees each image and caption once; training then reads its features from disk.

They are also kept below `embeddings/` of the root, so that the next training with these towers on this corpus need not
make them: other objectives, other seeds, the same training begun anew.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping
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
from bcls_core.store.canonical import fingerprint as name_of
from bcls_core.store.filesystem import Filesystem
from bcls_core.students import Student, TwoTower
from bcls_core.teachers.embedding_cache import FOLDER
from bcls_core.teachers.lanes import in_lanes
from bcls_core.training.initial import load_initial

_BATCH, _BATCH_BESIDE = 64, 8
_FOLDER = "frozen"
_DIGEST = 32  # length of a sha256

_LOG = logging.getLogger(__name__)


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


class KeptFeatures:
    """Files of features, whole shards of a side, by what determines them; each is followed by its sha256.

    A shard's rows are made in the same batches whoever makes them, so whoever keeps them keeps the same numbers (on
    processors of the same kind).
    """

    def __init__(self, filesystem: Filesystem, determinants: Mapping[str, Any]) -> None:
        """
        Args:
            filesystem: a root, for example a store's.
            determinants: of the features: towers, corpus, device.
        """
        self._filesystem = filesystem
        self._folder = f"{FOLDER}/{name_of(determinants)[:32]}"

    def read(self, name: str) -> bytes | None:
        """What was kept under a name; None if nothing was, or if it is damaged."""
        path = f"{self._folder}/{name}"
        if not self._filesystem.exists(path):
            return None
        data = self._filesystem.read(path)
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(content).digest() == digest:
            return content
        _LOG.warning("%s/%s is damaged: its rows are encoded again.", self._filesystem.url, path)
        return None

    def keep(self, name: str, content: bytes) -> None:
        """Seen whole or not at all, also by readers at this moment."""
        self._filesystem.write(f"{self._folder}/{name}", content + hashlib.sha256(content).digest())


class EncodeFrozenShard:
    """Piece worker: the frozen towers' features of one corpus shard.

    Args:
        kept: where features of these very towers on this corpus are kept; None to make them all.
    """

    def __init__(self, corpus: Artifact, draft: Draft, device: str, kept: KeptFeatures | None = None) -> None:
        self._corpus = corpus
        self._draft = draft
        student: nn.Module = load_initial(self._draft).to(device).eval()
        self._student = cast(Student, student.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self._device = device
        self._kept = kept
        self._rows: dict[str, CorpusRows] = {}

    def __call__(self, piece: dict[str, Any]) -> dict[str, Any]:
        split: Split = piece["split"]
        rows = self._rows.setdefault(split, CorpusRows(self._corpus, split))
        image_rows, caption_rows = rows.rows_of_shard(piece["shard"])
        if self._student.image_tower_frozen:
            self._write("images", piece, lambda: self._encode_images(rows, image_rows))
        if self._student.caption_tower_frozen:
            self._write("captions", piece, lambda: self._encode_captions(rows, caption_rows))
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

    def _write(self, side: str, piece: dict[str, Any], make: Callable[[], NDArray[np.float32]]) -> None:
        name = _name(side, piece["shard"])
        data = self._kept.read(name) if self._kept else None
        if data is None:
            buffer = io.BytesIO()
            np.save(buffer, make(), allow_pickle=False)
            data = buffer.getvalue()
            if self._kept:
                self._kept.keep(name, data)
        self._draft.scratch.write_bytes(f"{_FOLDER}/{name}", data)


def load_frozen(draft: Draft, student: Student, rows: CorpusRows) -> FrozenFeatures:
    """What `EncodeFrozenShard` wrote for the shards of one split."""
    return FrozenFeatures(
        images=_load_side(draft, "images", rows) if student.image_tower_frozen else None,
        captions=_load_side(draft, "captions", rows) if student.caption_tower_frozen else None,
    )


def _load_side(draft: Draft, side: str, rows: CorpusRows) -> FeatureTable:
    parts = []
    for shard in rows.shards:
        file_of_shard = f"{_FOLDER}/{_name(side, shard)}"
        path = draft.scratch.local(file_of_shard)
        if path is not None:
            parts.append(_mapped(Path(path)))
            continue
        with draft.scratch.open(file_of_shard) as file:
            parts.append(np.load(io.BytesIO(file.read()), allow_pickle=False))
    return FeatureTable(parts, np.cumsum([0, *(len(part) for part in parts[:-1])]))


def _mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _name(side: str, shard: int) -> str:
    return f"{side}-{shard:05d}.npy"
