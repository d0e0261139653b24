"""One measure of a label set beside the splits of its corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bcls_core.data.rows import CorpusRows
from bcls_core.errors import StoreError
from bcls_core.similarity import measures_of
from bcls_core.similarity.label_set import SIMILARITY
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.row_book import open_book
from bcls_core.store import Artifact

_CHUNK = 65_536


class SplitCaptions:
    """Captions of one split by ascending id.

    Attributes:
        ids: (captions,) ascending.
        images: (captions,) image row of each.
        rows: (captions,) caption row of each in the split.
    """

    def __init__(self, split: CorpusRows) -> None:
        self.rows: IntArray = np.argsort(split.caption_ids, kind="stable")
        self.ids: IntArray = split.caption_ids[self.rows]
        self.images: IntArray = split.caption_image[self.rows]

    def places_of(self, ids: IntArray) -> IntArray:
        """Where these ids stand in `ids`.

        Raises:
            StoreError: one does not.
        """
        places = np.minimum(np.searchsorted(self.ids, ids), max(0, len(self.ids) - 1))
        if len(ids) and (not len(self.ids) or (self.ids[places] != ids).any()):
            raise StoreError(
                "the label set's neighbours are of other captions than the corpus's. Make the labels again."
            )
        return places


class LabelledMeasure:
    """Stored representations of all captions, mapped from disk, and how they are compared."""

    def __init__(self, labels: Artifact, measure: str) -> None:
        """
        Raises:
            StoreError: the label set has no such measure.
        """
        kind = next((kind for kind in SIMILARITY if f"{kind}/{measure}" in labels.tables), None)
        if kind is None:
            known = ", ".join(measures_of(labels)) or "none"
            raise StoreError(f"label set {labels.version} has no measure {measure!r}. Name one it has: {known}.")
        self.name = measure
        self.similarity = SIMILARITY[kind]
        self._labels = labels
        # One book for all splits, so that all its rows are equally wide.
        self._book = open_book(kind, labels.scan(f"{kind}/{measure}"))

    def take(self, ids: IntArray) -> Any:
        """Stored rows of these captions."""
        return self._book.take(ids)

    def pairs(self, a: IntArray, b: IntArray) -> FloatArray:
        """(n,) similarity of caption a[i] with caption b[i], given by id."""
        found: FloatArray = np.empty(len(a), dtype=np.float32)
        for start in range(0, len(a), _CHUNK):
            part = slice(start, start + _CHUNK)
            found[part] = self.similarity.pairs(self.take(a[part]), self.take(b[part]))
        return found

    def chunks(self, ids: IntArray) -> Iterator[tuple[IntArray, Any]]:
        """Ascending ids and their rows, some at a time."""
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            yield part, self.take(part)

    def neighbours(self, split: CorpusRows) -> Iterator[Any]:
        """The table `neighbours` of one split, shard by shard: id, ids, scores."""
        for shard in split.shards:
            yield self._labels.read(f"neighbours/{self.name}", shard, ["id", "ids", "scores"])
