"""The pieces of work behind a label set: workers that read a corpus's captions and write a label set's tables.

Order of stages: `FitCider` (only if some measure is CIDEr), `RepresentShard` for every measure and shard,
`NeighboursShard` likewise, `EstimateGaps`. Pieces of one stage may run anywhere and in any order. A piece names itself
under "piece" and, where it is about one shard, the shard's number under "shard"; its record says how many rows it made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from bcls_core.config import EmbeddingMeasureSettings, MeasureSettings
from bcls_core.errors import CorpusError
from bcls_core.similarity.cider import Cider
from bcls_core.similarity.document_frequencies import DocumentCounter, DocumentFrequencies
from bcls_core.similarity.gaps import GAPS_TABLE, sample_gaps
from bcls_core.similarity.label_set import SIMILARITY, relevance_by_id
from bcls_core.similarity.label_tables import neighbours_table, representations_table
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.relevance import CaptionRelevance
from bcls_core.similarity.row_book import EMBEDDINGS, TFIDF, RowBook, open_book
from bcls_core.store import Artifact, Store
from bcls_core.teachers.text import TextTeacher

FREQUENCIES = "document_frequencies"
CAPTIONS = "captions"

Piece = Mapping[str, Any]
Record = dict[str, Any]


def shard_splits(corpus: Artifact) -> list[str | None]:
    """The split of each caption shard; None for a shard without captions."""
    tables = corpus.scan(CAPTIONS, columns=["split"])
    return [table.column("split")[0].as_py() if table.num_rows else None for table in tables]


class _LabelWorker:
    """What every stage has: the corpus it reads and the draft it writes."""

    def __init__(self, root: str, corpus: str, labels: str) -> None:
        store = Store(root)
        self._corpus = store.resolve("corpus", corpus)
        self._draft = store.draft("labels", labels)

    @cached_property
    def _splits(self) -> list[str | None]:
        return shard_splits(self._corpus)

    def _shards_of(self, split: str | None) -> list[int]:
        return [shard for shard, other in enumerate(self._splits) if other == split]

    def _need_train(self) -> None:
        if "train" not in self._splits:
            raise CorpusError(
                f"corpus {self._corpus.version} has no captions of split train, and labels are fitted on it. "
                "Ingest it again and map one of its splits to train."
            )

    def _captions(self, shard: int) -> pa.Table:
        return self._corpus.read(CAPTIONS, shard)

    def _book(self, measure: str, kind: str, split: str | None) -> RowBook[Any]:
        table = f"{kind}/{measure}"
        return open_book(kind, (self._draft.read_table(table, shard) for shard in self._shards_of(split)))

    def _image_of(self, split: str | None) -> tuple[IntArray, IntArray]:
        """Ids of a split's captions, ascending, and the number of each one's image."""
        columns = ["caption_id", "image_id"]
        tables = [self._corpus.read(CAPTIONS, shard, columns) for shard in self._shards_of(split)]
        captions = pa.concat_tables(tables).sort_by("caption_id")
        images = captions.column("image_id").combine_chunks().dictionary_encode()
        return captions.column("caption_id").to_numpy(), images.indices.to_numpy().astype(np.int64)


class FitCider(_LabelWorker):
    """Document frequencies of the training images, written as `document_frequencies`; one piece.

    Captions of the other splits give ids to n-grams that no training caption holds (df = 0), so that every row of the
    label set can be compared; they influence no weight.
    """

    def __call__(self, _: Piece) -> Record:
        self._need_train()
        counter = DocumentCounter()
        for shard, split in enumerate(self._splits):
            captions = self._captions(shard)
            images = captions.column("image_id").to_pylist()
            counter.add(captions.column("caption").to_pylist(), images, counted=split == "train")
        frequencies = counter.frequencies()
        self._draft.write_table(FREQUENCIES, 0, frequencies.to_table())
        return {"rows": len(frequencies.ids), "images": frequencies.images}


class RepresentShard(_LabelWorker):
    """Representations of one shard's captions, row by row as in the corpus."""

    def __init__(
        self, root: str, corpus: str, labels: str, measure: str, settings: MeasureSettings, device: str = "cpu"
    ) -> None:
        super().__init__(root, corpus, labels)
        self._measure = measure
        self._kind = kind_of(settings)
        self._settings = settings
        self._device = device

    def __call__(self, piece: Piece) -> Record:
        captions = self._captions(piece["shard"])
        rows = self._encoder(captions.column("caption").to_pylist())
        table = representations_table(self._kind, captions.column("caption_id"), captions.column("split"), rows)
        self._draft.write_table(f"{self._kind}/{self._measure}", piece["shard"], table)
        return {"rows": table.num_rows}

    @cached_property
    def _encoder(self) -> Any:
        settings = self._settings
        if isinstance(settings, EmbeddingMeasureSettings):
            # The teacher itself, not `EmbeddingCosine`: that one's memory would let a row depend on earlier pieces.
            return TextTeacher(
                settings.model, revision=settings.revision, prompt=settings.prompt, device=self._device
            ).encode
        return Cider(DocumentFrequencies.from_table(self._draft.read_table(FREQUENCIES, 0))).represent


class NeighboursShard(_LabelWorker):
    """For each caption of one shard the k most similar captions of its split that describe other images.

    Equal scores go to the lower caption id. A caption with fewer than k such others has a shorter list.
    """

    def __init__(self, root: str, corpus: str, labels: str, measure: str, settings: MeasureSettings, k: int) -> None:
        super().__init__(root, corpus, labels)
        self._measure = measure
        self._kind = kind_of(settings)
        self._k = k
        self._split_rows = lru_cache(maxsize=1)(self._read_split)

    def __call__(self, piece: Piece) -> Record:
        shard = piece["shard"]
        ids, images, rows = self._split_rows(self._splits[shard])
        own = self._corpus.read(CAPTIONS, shard, ["caption_id"]).column("caption_id").to_numpy()
        places = np.searchsorted(ids, own)
        scores, found = SIMILARITY[self._kind].top_k(
            rows, self._k, queries=rows[places], exclude=images, exclude_queries=images[places]
        )
        neighbours = np.where(found >= 0, ids[found], -1) if len(ids) else found
        table = neighbours_table(self._measure, own, neighbours, scores)
        self._draft.write_table(f"neighbours/{self._measure}", shard, table)
        return {"rows": table.num_rows, "neighbours": int((found >= 0).sum())}

    def _read_split(self, split: str | None) -> tuple[IntArray, IntArray, Any]:
        """Ids, image numbers and rows of a split's captions, in order of ids, so that row order decides ties."""
        ids, images = self._image_of(split)
        return ids, images, self._book(self._measure, self._kind, split).take(ids)


class EstimateGaps(_LabelWorker):
    """Gap quantiles of every measure over the training split, written as `gap_quantiles`; one piece."""

    def __init__(
        self, root: str, corpus: str, labels: str, measures: Mapping[str, MeasureSettings], pairs: int, seed: int
    ) -> None:
        super().__init__(root, corpus, labels)
        self._measures = measures
        self._pairs = pairs
        self._seed = seed

    def __call__(self, _: Piece) -> Record:
        tables = pa.concat_tables(self._tables())
        self._draft.write_table(GAPS_TABLE, 0, tables)
        return {"rows": tables.num_rows}

    def _tables(self) -> Iterator[pa.Table]:
        self._need_train()
        ids, images = self._image_of("train")
        for measure, settings in sorted(self._measures.items()):
            kind = kind_of(settings)
            book, relevance = self._book(measure, kind, "train"), CaptionRelevance(SIMILARITY[kind])

            def rows(own: Any, captions: IntArray, relevance: Any = relevance, book: Any = book) -> FloatArray:
                return relevance_by_id(relevance, book, own, captions)

            yield sample_gaps(rows, ids, images, self._pairs, self._seed).to_table(measure)


def kind_of(settings: MeasureSettings) -> str:
    """Which kind of representation table a measure has."""
    return EMBEDDINGS if isinstance(settings, EmbeddingMeasureSettings) else TFIDF
