"""Random access to one split of a published corpus, for training and evaluation.

Rows of a split are numbered through its shards: image row 0 is the first image of the split's first shard. Training
reads rows in the order of a seeded plan, so encoded images and texts stay on disk; in memory are integer arrays and a
bounded number of row groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from bcls_core.data.row_groups import ColumnReader
from bcls_core.data.schema import SPLITS
from bcls_core.errors import CorpusError
from bcls_core.store import Artifact

Rows = NDArray[np.int64]

CACHE_BYTES = 256 * 2**20


class CorpusRows:
    """One split of a corpus by row number; picklable (caches stay behind), safe to share between threads.

    Attributes:
        split: train, val or test.
        shards: numbers of the split's shards that hold images, in row order.
        image_count, caption_count: rows of the split.
        caption_ids: (captions,) int64.
        caption_image: (captions,) int64, the image row of each caption, ascending.
    """

    def __init__(self, corpus: Artifact, split: str, *, cache_bytes: int = CACHE_BYTES) -> None:
        """
        Args:
            cache_bytes: how much of the images, and again of the texts and of the features, may stay in memory.
        Raises:
            CorpusError: no such split.
            StoreError: a file is missing or damaged.
        """
        if split not in SPLITS:
            raise CorpusError(f"a corpus has no split {split!r}; its splits are {', '.join(SPLITS)}.")
        self.corpus = corpus
        self.split = split
        self.shards: list[int] = []
        ids, images, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [0]
        for shard in range(len(corpus.parts("images"))):
            table = corpus.read("images", shard, ["image_id", "split"])
            if table.num_rows == 0 or table["split"][0].as_py() != split:
                continue
            captions = corpus.read("captions", shard, ["caption_id", "image_id"])
            places = pc.index_in(captions["image_id"], value_set=table["image_id"].combine_chunks())
            ids.append(captions["caption_id"].to_numpy())
            images.append(places.to_numpy().astype(np.int64) + sum(counts))
            counts.append(table.num_rows)
            self.shards.append(shard)
        self.caption_ids: Rows = np.concatenate(ids)
        self.caption_image: Rows = np.concatenate(images)
        self._image_starts: Rows = np.cumsum(counts)
        self._caption_starts: Rows = np.cumsum([len(part) for part in ids])
        self._images = ColumnReader(corpus, "images", "image", self.shards, cache_bytes=cache_bytes)
        self._captions = ColumnReader(corpus, "captions", "caption", self.shards, cache_bytes=cache_bytes)
        self._features = (
            ColumnReader(corpus, "features", "features", self.shards, cache_bytes=cache_bytes)
            if "features" in corpus.tables
            else None
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "image_ids"}

    @property
    def has_images(self) -> bool:
        """Whether the corpus holds pictures; else it was made from features."""
        return self._features is None

    @property
    def image_count(self) -> int:
        return int(self._image_starts[-1])

    @property
    def caption_count(self) -> int:
        return len(self.caption_ids)

    @cached_property
    def image_ids(self) -> list[str]:
        """Ids of all images of the split, in row order; read when first asked for."""
        return [
            name for shard in self.shards for name in self.corpus.read("images", shard, ["image_id"])[0].to_pylist()
        ]

    def captions_of(self, image_row: int) -> Rows:
        """Rows of an image's captions."""
        first, last = np.searchsorted(self.caption_image, [image_row, image_row + 1])
        return np.arange(first, last)

    def rows_of_shard(self, shard: int) -> tuple[Rows, Rows]:
        """Image rows and caption rows of one of `shards`.

        Raises:
            CorpusError: the shard is not one of the split's.
        """
        if shard not in self.shards:
            raise CorpusError(f"shard {shard} holds nothing of split {self.split!r}; its shards are {self.shards}.")
        index = self.shards.index(shard)
        images, captions = (
            np.arange(*starts[index : index + 2]) for starts in (self._image_starts, self._caption_starts)
        )
        return images, captions

    def images(self, rows: Sequence[int] | Rows) -> list[bytes]:
        """Encoded images of some image rows, in their order.

        Raises:
            CorpusError: a row is not there, or the corpus holds features instead of images.
        """
        if self._features is not None:
            raise CorpusError(
                f"{self.corpus.url} was made from features and holds no images. Read features, or ingest images."
            )
        return self._images.take(rows, lambda value: value.as_py())

    def captions(self, rows: Sequence[int] | Rows) -> list[str]:
        """Texts of some caption rows, in their order.

        Raises:
            CorpusError: a row is not there.
        """
        return self._captions.take(rows, lambda value: value.as_py())

    def features(self, rows: Sequence[int] | Rows) -> NDArray[np.float16]:
        """(rows, dim) features of some image rows, in their order; (0, 0) for none.

        Raises:
            CorpusError: a row is not there, or the corpus was not made from features.
        """
        if self._features is None:
            raise CorpusError(f"{self.corpus.url} holds images, no features. Read images, or ingest with features.")
        vectors = self._features.take(rows, lambda vector: vector.values.to_numpy().copy())
        return np.stack(vectors) if vectors else np.zeros((0, 0), np.float16)
