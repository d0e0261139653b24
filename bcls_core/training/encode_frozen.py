"""A frozen tower sees each image and caption once; training and evaluation then read its features.

They are also kept below `embeddings/` of the root, so that nobody with these towers need make them again for this
corpus: other objectives, other seeds, another evaluation.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping
from typing import Any

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
from bcls_core.training.batches import InputSource
from bcls_core.training.frozen import FrozenFeatures, Side, leave_frozen, loaded, table_of
from bcls_core.training.initial import load_initial

_SIDES: tuple[Side, ...] = ("images", "captions")
_BATCH, _BATCH_BESIDE = 64, 8
_DIGEST = 32  # length of a sha256

_LOG = logging.getLogger(__name__)


class KeptFeatures:
    """Files of features, by the towers that made them and the corpus file whose rows they are of, each followed by its
    own sha256. So corpora that have a file in common, in whatever other company, share its features.

    A file's rows are made in the same batches whoever makes them, so whoever keeps them keeps the same numbers (on
    processors of the same kind).
    """

    def __init__(self, filesystem: Filesystem, determinants: Mapping[str, Any]) -> None:
        """
        Args:
            filesystem: a root, for example a store's.
            determinants: of the features, beside the rows: towers, device.
        """
        self._filesystem = filesystem
        self._folder = f"{FOLDER}/{name_of(determinants)[:32]}"

    def read(self, name: str) -> bytes | None:
        """What was kept under a name; None if nothing was, or if it is damaged."""
        path = f"{self._folder}/{name}"
        try:
            data = self._filesystem.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _LOG.warning("%s/%s cannot be read, its rows are encoded: %s", self._filesystem.url, path, error)
            return None
        content, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(content).digest() == digest:
            return content
        _LOG.warning("%s/%s is damaged: its rows are encoded again.", self._filesystem.url, path)
        return None

    def keep(self, name: str, content: bytes) -> None:
        """Seen whole or not at all, also by readers at this moment. What cannot be written is not kept."""
        path = f"{self._folder}/{name}"
        try:
            self._filesystem.write(path, content + hashlib.sha256(content).digest())
        except OSError as error:
            _LOG.warning("%s/%s cannot be kept for later trainings: %s", self._filesystem.url, path, error)


class FrozenEncoder:
    """What a student's frozen towers make of a shard's rows; made once if it can be kept.

    Args:
        kept: where features of these very towers on this corpus are kept; None to make them all.
    """

    def __init__(self, student: Student, device: str, kept: KeptFeatures | None = None) -> None:
        self._student = student.to(device).eval()
        self._device = device
        self._kept = kept
        if self._student.image_tower_frozen:
            module: nn.Module = self._student
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def sides(self) -> list[Side]:
        """Those whose towers are frozen."""
        frozen = {"images": self._student.image_tower_frozen, "captions": self._student.caption_tower_frozen}
        return [side for side in _SIDES if frozen[side]]

    def encode(self, side: Side, rows: CorpusRows, shard: int) -> bytes:
        """A `.npy` file of (rows, features) fp32: the shard's rows of `rows`, in their order."""
        name = f"{side}-{rows.corpus.parts(side)[shard].sha256}.npy"
        data = self._kept.read(name) if self._kept else None
        if data is None:
            image_rows, caption_rows = rows.rows_of_shard(shard)
            features = self._images(rows, image_rows) if side == "images" else self._captions(rows, caption_rows)
            buffer = io.BytesIO()
            np.save(buffer, features, allow_pickle=False)
            data = buffer.getvalue()
            if self._kept:
                self._kept.keep(name, data)
        return data

    def _images(self, rows: CorpusRows, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        source = InputSource(rows, self._student.preprocessor)
        return self._in_batches(
            lambda part: self._student.frozen_image_features(self._to_device(source.images(part))), numbers
        )

    def _captions(self, rows: CorpusRows, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        source = InputSource(rows, self._student.preprocessor)
        return self._in_batches(
            lambda part: self._student.frozen_caption_features(self._to_device(source.captions(part))), numbers
        )

    def _in_batches(
        self, encode: Callable[[NDArray[np.int64]], Tensor], numbers: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """On a CPU small ones side by side, whose maps stay in the processors' caches."""
        beside = self._device == "cpu" and isinstance(self._student, TwoTower) and self._student.frozen_towers_are_pure
        size = _BATCH_BESIDE if beside else _BATCH
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        batches = [*in_lanes(encode, parts)] if beside else [*map(encode, parts)]
        return torch.cat(batches).float().cpu().numpy() if batches else np.zeros((0, 0), np.float32)

    def _to_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self._device) for name, tensor in inputs.items()}


class EncodeFrozenShard:
    """Piece worker: the frozen towers' features of one corpus shard, left in the draft."""

    def __init__(self, corpus: Artifact, draft: Draft, device: str, kept: KeptFeatures | None = None) -> None:
        self._corpus = corpus
        self._draft = draft
        self._encoder = FrozenEncoder(load_initial(draft), device, kept)
        self._rows: dict[str, CorpusRows] = {}

    def __call__(self, piece: dict[str, Any]) -> dict[str, Any]:
        split: Split = piece["split"]
        rows, shard = self._rows.setdefault(split, CorpusRows(self._corpus, split)), piece["shard"]
        for side in self._encoder.sides:
            leave_frozen(self._draft, side, shard, self._encoder.encode(side, rows, shard))
        images, captions = rows.rows_of_shard(shard)
        return {"images": len(images), "captions": len(captions)}


def encode_frozen(encoder: FrozenEncoder, rows: CorpusRows) -> FrozenFeatures:
    """The features of one split, in memory."""
    tables = {
        side: table_of([loaded(encoder.encode(side, rows, shard)) for shard in rows.shards]) for side in encoder.sides
    }
    return FrozenFeatures(**tables)
