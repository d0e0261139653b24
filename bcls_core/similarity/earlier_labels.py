"""An earlier label set, of the same settings and models but another corpus, on whose neighbours a new one may build."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bcls_core.similarity.corpus_splits import CorpusSplits
from bcls_core.similarity.incremental_lists import Lists
from bcls_core.similarity.row_book import open_book
from bcls_core.similarity.split_rows import SplitRows
from bcls_core.store import Store


class EarlierLabels:
    """What a label set and its corpus say of one measure, split by split."""

    def __init__(self, store: Store, version: str, measure: str, kind: str) -> None:
        """
        Args:
            version: of the label set; its corpus must still be there.
            measure: its name in both label sets.
            kind: of representation tables, such as `caption_embeddings`.
        Raises:
            UnknownArtifactError: the label set or its corpus is gone.
        """
        self._labels = store.resolve("labels", version)
        self._splits = CorpusSplits(store.resolve("corpus", self._labels.manifest.parents["corpus"]))
        self._measure = measure
        self._kind = kind

    def has(self, split: str) -> bool:
        """Whether it labels captions of that split."""
        return split in self._splits.names

    def rows(self, split: str) -> SplitRows:
        """The split's captions then."""
        tables = (self._labels.read(f"{self._kind}/{self._measure}", shard) for shard in self._splits.shards(split))
        ids, images = self._splits.images(split)
        return SplitRows(ids, images, open_book(self._kind, tables).take(ids))

    def lists(self, split: str, k: int) -> Lists:
        """The split's neighbours then."""
        tables = [
            self._labels.read(f"neighbours/{self._measure}", shard, ["id", "ids", "scores"])
            for shard in self._splits.shards(split)
        ]
        table = pa.concat_tables(tables).combine_chunks()
        found, scores = (table.column(name).combine_chunks() for name in ("ids", "scores"))
        lengths = np.diff(found.offsets.to_numpy()).astype(np.int64)
        return Lists.in_order(
            table.column("id").to_numpy(), lengths, found.flatten().to_numpy(), scores.flatten().to_numpy(), k
        )
