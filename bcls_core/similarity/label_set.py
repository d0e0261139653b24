"""What training and evaluation read out of a label set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bcls_core.errors import StoreError
from bcls_core.similarity.cider import Cider
from bcls_core.similarity.cider_d import CiderD
from bcls_core.similarity.embedding import EmbeddingCosine
from bcls_core.similarity.gaps import GAPS_TABLE, GapQuantiles
from bcls_core.similarity.measure import FloatArray, IntArray, RowSimilarity
from bcls_core.similarity.relevance import CaptionRelevance, GalleryCaptions, ImageCaptions
from bcls_core.similarity.row_book import COUNTED_TFIDF, EMBEDDINGS, TFIDF, DenseBook, RowBook, open_book
from bcls_core.store import Artifact

SIMILARITY: dict[str, RowSimilarity[Any]] = {
    EMBEDDINGS: EmbeddingCosine.similarity,
    TFIDF: Cider.similarity,
    COUNTED_TFIDF: CiderD.similarity,
}
"""Kind of representation table -> how its rows are compared."""


def measures_of(labels: Artifact) -> list[str]:
    """The measures a label set holds, sorted."""
    return sorted(name for kind, _, name in (table.partition("/") for table in labels.tables) if kind in SIMILARITY)


def load_gaps(labels: Artifact) -> dict[str, GapQuantiles]:
    """Measure -> quantiles of its label gaps."""
    table = labels.read(GAPS_TABLE, 0)
    return {measure: GapQuantiles.from_table(table, measure) for measure in measures_of(labels)}


class LabelSetRelevance:
    """Relevance from the representations of one measure in a label set, addressed by caption id.

    Rows are mapped from disk: opening reads them once, one shard at a time, and memory holds what a batch touches.
    """

    def __init__(self, labels: Artifact, measure: str, split: str | None = None) -> None:
        """
        Args:
            labels: a label set.
            measure: name of one of its measures.
            split: the only split whose captions will be asked for; all of them if None.
        Raises:
            StoreError: the label set has no such measure.
        """
        kind = next((kind for kind in SIMILARITY if f"{kind}/{measure}" in labels.tables), None)
        if kind is None:
            known = ", ".join(measures_of(labels)) or "none"
            raise StoreError(f"label set {labels.version} has no measure {measure!r}. Name one it has: {known}.")
        self._book = open_book(kind, _parts(labels, f"{kind}/{measure}", split))
        self._similarity = SIMILARITY[kind]
        self._relevance = CaptionRelevance(self._similarity)

    def rows(self, image_caption_ids: Sequence[IntArray], caption_ids: IntArray) -> FloatArray:
        """(images, captions) relevance; 1 where the caption is the image's own.

        Args:
            image_caption_ids: for each image the ids of all its captions.
            caption_ids: (captions,) the captions judged.
        Raises:
            StoreError: a caption has no representation.
            ShapeError: an image has no caption.
        """
        return relevance_by_id(self._relevance, self._book, image_caption_ids, caption_ids)

    @property
    def is_dense(self) -> bool:
        """Whether captions are compared by the cosine of vectors."""
        return isinstance(self._book, DenseBook)

    def take(self, caption_ids: IntArray) -> Any:
        """Representations of captions: (captions, dimension) fp16 of a dense measure.

        Raises:
            StoreError: a caption has none.
        """
        return self._book.take(caption_ids)

    def matrix(self, caption_ids: IntArray, others: IntArray) -> FloatArray:
        """(captions, others) similarities of captions with captions, by id.

        Raises:
            StoreError: a caption has no representation.
        """
        return self._similarity.matrix(self._book.take(caption_ids), self._book.take(others))


def relevance_by_id(
    relevance: CaptionRelevance[Any],
    book: RowBook[Any],
    image_caption_ids: Sequence[IntArray],
    caption_ids: IntArray,
) -> FloatArray:
    """(images, captions) relevance of captions to images, both given by ids of captions in `book`."""
    lengths = np.array([len(ids) for ids in image_caption_ids], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.concatenate(image_caption_ids) if len(image_caption_ids) else np.empty(0, dtype=np.int64)
    own = np.zeros((len(lengths), len(caption_ids)), dtype=np.bool_)
    order = np.argsort(caption_ids, kind="stable")
    left = np.searchsorted(caption_ids, flat, side="left", sorter=order)
    right = np.searchsorted(caption_ids, flat, side="right", sorter=order)
    hits = right - left
    within = np.arange(hits.sum()) - np.repeat(np.cumsum(hits) - hits, hits)
    columns = order[np.repeat(left, hits) + within]
    own[np.repeat(np.repeat(np.arange(len(lengths)), lengths), hits), columns] = True
    return relevance.rows(
        ImageCaptions(book.take(flat), offsets), GalleryCaptions(book.take(np.asarray(caption_ids)), own)
    )


def _parts(labels: Artifact, table: str, split: str | None) -> Iterator[pa.Table]:
    for part in range(len(labels.parts(table))):
        splits = labels.read(table, part, columns=["split"]).column("split")
        if len(splits) and split in (None, splits[0].as_py()):
            yield labels.read(table, part, checked=True)  # what is damaged is found before it is trained on
