"""An earlier label set, of the same settings and models but another corpus, on whose neighbours a new one may build."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bcls_core.similarity.corpus_splits import CorpusSplits, splits_of
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
            StoreError: a file is missing or damaged, here and below: every one that is read is checked, for what it
                says becomes part of a new label set.
        """
        self._labels = store.resolve("labels", version)
        self._corpus = CorpusSplits(store.resolve("corpus", self._labels.manifest.parents["corpus"]), checked=True)
        self._measure = measure
        self._kind = kind
        # The label set's own: the same corpus may have been written again in other shards.
        self._split_of = splits_of(self._labels, f"{kind}/{measure}", checked=True)

    def has(self, split: str) -> bool:
        """Whether it labels captions of that split."""
        return split in self._split_of

    def rows(self, split: str) -> SplitRows:
        """The split's captions then."""
        ids, images = self._corpus.images(split)
        tables = (self._read(f"{self._kind}/{self._measure}", part) for part in self._parts(split))
        return SplitRows(ids, images, open_book(self._kind, tables).take(ids))

    def lists(self, split: str, k: int) -> Lists:
        """The split's neighbours then."""
        tables = [
            self._read(f"neighbours/{self._measure}", part).select(["id", "ids", "scores"])
            for part in self._parts(split)
        ]
        table = pa.concat_tables(tables).combine_chunks()
        found, scores = (table.column(name).combine_chunks() for name in ("ids", "scores"))
        lengths = np.diff(found.offsets.to_numpy()).astype(np.int64)
        return Lists.in_order(
            table.column("id").to_numpy(), lengths, found.flatten().to_numpy(), scores.flatten().to_numpy(), k
        )

    def _parts(self, split: str) -> list[int]:
        return [part for part, other in enumerate(self._split_of) if other == split]

    def _read(self, table: str, part: int) -> pa.Table:
        return self._labels.read(table, part, checked=True)
