"""The pieces of work behind a label set: workers that read a corpus's captions and write a label set's tables.

Order of stages: `FitFrequencies` (only if some measure counts n-grams), `RepresentShard` for every measure and shard,
those of `neighbour_labels.py`, `EstimateGaps`. Pieces of one stage may run anywhere and in any order. A piece names
itself under "piece" and says under "shard", "shards" or "split" what it is about; its record says how many rows it
made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from bcls_core.config import CiderDMeasureSettings, EmbeddingMeasureSettings, MeasureSettings
from bcls_core.errors import BclsError, CorpusError, ModelError
from bcls_core.similarity.cider import Cider
from bcls_core.similarity.cider_d import CiderD
from bcls_core.similarity.corpus_splits import CAPTIONS, CorpusSplits
from bcls_core.similarity.document_frequencies import DocumentCounter, DocumentFrequencies
from bcls_core.similarity.gaps import GAPS_TABLE, sample_gaps
from bcls_core.similarity.label_set import SIMILARITY, relevance_by_id
from bcls_core.similarity.label_tables import representations_table
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.relevance import CaptionRelevance
from bcls_core.similarity.row_book import COUNTED_TFIDF, EMBEDDINGS, TFIDF, RowBook, open_book
from bcls_core.similarity.tokens import ngrams
from bcls_core.store import Draft, Store
from bcls_core.teachers.embedding_cache import EmbeddingCache
from bcls_core.teachers.text import TextTeacher, teacher_fingerprint

FREQUENCIES = "document_frequencies"

log = logging.getLogger(__name__)

Piece = Mapping[str, Any]
Record = dict[str, Any]


class LabelWorker:
    """What every stage has: the corpus it reads and the draft it writes."""

    def __init__(self, root: str, corpus: str, labels: str, earlier: str | None = None) -> None:
        """
        Args:
            earlier: version of a label set of another corpus that has all else in common.
        """
        self._store = Store(root)
        self._corpus = self._store.resolve("corpus", corpus)
        self._earlier = earlier
        # Not `Store.draft`: opening a draft again stops a commit, and a late worker of a dead job must not do that.
        self._draft = Draft(self._store.filesystem, "labels", labels)
        if earlier is not None:
            self._share_with(earlier)

    def _share_with(self, version: str) -> None:
        try:
            self._draft.share_with(self._store.resolve("labels", version))
        except BclsError as error:
            log.warning("no files are shared with labels %s: %s", version, error)

    @cached_property
    def _splits(self) -> CorpusSplits:
        return CorpusSplits(self._corpus)

    def _need_train(self) -> None:
        if "train" not in self._splits.names:
            raise CorpusError(
                f"corpus {self._corpus.version} has no captions of split train, and labels are fitted on it. "
                "Ingest it again and map one of its splits to train."
            )

    def _captions(self, shard: int) -> pa.Table:
        return self._corpus.read(CAPTIONS, shard)

    def _book(self, measure: str, kind: str, split: str | None) -> RowBook[Any]:
        table = f"{kind}/{measure}"
        return open_book(kind, (self._draft.read_table(table, shard) for shard in self._splits.shards(split)))


class FitFrequencies(LabelWorker):
    """Document frequencies of the training images, written as `document_frequencies`; one piece.

    Captions of the other splits give ids to n-grams that no training caption holds (df = 0), so that every row of the
    label set can be compared; they influence no weight. Where the frequencies are those of another label set, all
    captions do just that.
    """

    def __init__(
        self, root: str, corpus: str, labels: str, earlier: str | None = None, frequencies_of: str | None = None
    ) -> None:
        """
        Args:
            frequencies_of: version of the label set whose document frequencies are kept; counted if None.
        """
        super().__init__(root, corpus, labels, earlier)
        self._frequencies_of = frequencies_of

    def __call__(self, _: Piece) -> Record:
        frequencies = self._counted() if self._frequencies_of is None else self._kept(self._frequencies_of)
        self._draft.write_table(FREQUENCIES, 0, frequencies.to_table())
        return {"rows": len(frequencies.ids), "images": frequencies.images}

    def _counted(self) -> DocumentFrequencies:
        self._need_train()
        counter = DocumentCounter()
        for shard, split in enumerate(self._splits.of_shard):
            captions = self._captions(shard)
            images = captions.column("image_id").to_pylist()
            counter.add(captions.column("caption").to_pylist(), images, counted=split == "train")
        return counter.frequencies()

    def _kept(self, version: str) -> DocumentFrequencies:
        self._share_with(version)
        kept = DocumentFrequencies.from_table(self._store.resolve("labels", version).read(FREQUENCIES, 0, checked=True))
        strange: set[str] = set()
        for shard in range(len(self._splits.of_shard)):
            names = ngrams(self._captions(shard).column("caption").to_pylist()).names
            strange.update(name for name in names if name not in kept.ids)
        return kept.extended(strange)


class RepresentShard(LabelWorker):
    """Representations of one shard's captions, row by row as in the corpus."""

    def __init__(
        self,
        root: str,
        corpus: str,
        labels: str,
        measure: str,
        settings: MeasureSettings,
        device: str = "cpu",
        earlier: str | None = None,
    ) -> None:
        super().__init__(root, corpus, labels, earlier)
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
            cache = EmbeddingCache(self._store.filesystem, self._fingerprint)

            def encode(texts: list[str]) -> Any:
                rows = cache.encode(texts, lambda unknown: self._teacher.encode(unknown))
                return rows if rows.shape[1] else np.empty((0, self._teacher.dimension), dtype=np.float16)

            return encode
        measure = CiderD if isinstance(settings, CiderDMeasureSettings) else Cider
        return measure(DocumentFrequencies.from_table(self._draft.read_table(FREQUENCIES, 0))).represent

    @cached_property
    def _teacher(self) -> TextTeacher:
        """Loaded when the cache lacks a caption: most jobs repeat most of an earlier one's."""
        settings = self._settings
        assert isinstance(settings, EmbeddingMeasureSettings)  # noqa: S101 - nothing else encodes
        teacher = TextTeacher(settings.model, revision=settings.revision, prompt=settings.prompt, device=self._device)
        if teacher.fingerprint != self._fingerprint:
            raise ModelError(
                f"model {settings.model!r} changed while the job was at work. Run it again: it becomes another version."
            )
        return teacher

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        settings = self._settings
        assert isinstance(settings, EmbeddingMeasureSettings)  # noqa: S101 - nothing else has a teacher
        return teacher_fingerprint(settings.model, revision=settings.revision, prompt=settings.prompt)


class EstimateGaps(LabelWorker):
    """Gap quantiles of every measure over the training split, written as `gap_quantiles`; one piece."""

    def __init__(
        self,
        root: str,
        corpus: str,
        labels: str,
        measures: Mapping[str, MeasureSettings],
        pairs: int,
        seed: int,
        earlier: str | None = None,
    ) -> None:
        super().__init__(root, corpus, labels, earlier)
        self._measures = measures
        self._pairs = pairs
        self._seed = seed

    def __call__(self, _: Piece) -> Record:
        tables = pa.concat_tables(self._tables())
        self._draft.write_table(GAPS_TABLE, 0, tables)
        return {"rows": tables.num_rows}

    def _tables(self) -> Iterator[pa.Table]:
        self._need_train()
        ids, images = self._splits.images("train")
        for measure, settings in sorted(self._measures.items()):
            kind = kind_of(settings)
            book, relevance = self._book(measure, kind, "train"), CaptionRelevance(SIMILARITY[kind])

            def rows(own: Any, captions: IntArray, relevance: Any = relevance, book: Any = book) -> FloatArray:
                return relevance_by_id(relevance, book, own, captions)

            yield sample_gaps(rows, ids, images, self._pairs, self._seed).to_table(measure)


def kind_of(settings: MeasureSettings) -> str:
    """Which kind of representation table a measure has."""
    if isinstance(settings, EmbeddingMeasureSettings):
        return EMBEDDINGS
    return COUNTED_TFIDF if isinstance(settings, CiderDMeasureSettings) else TFIDF
