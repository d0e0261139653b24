"""The pieces of work behind neighbours and soft labels: gather a split, file it (approximate search only), search it.

Stages: `GatherSplit` for every embedding measure and split, `FitIvf` likewise if the search is approximate,
`SearchPanel` for every measure and panel, `MeasureRecall` for every measure and split if the search is approximate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from bcls_core.config import IvfSearch, LabelSettings
from bcls_core.errors import BclsError
from bcls_core.similarity.earlier_labels import EarlierLabels
from bcls_core.similarity.incremental import Search, update_neighbours
from bcls_core.similarity.incremental_changes import kept_captions
from bcls_core.similarity.ivf import IvfPlan
from bcls_core.similarity.ivf_fit import fit_ivf
from bcls_core.similarity.ivf_recall import measure_recall
from bcls_core.similarity.label_set import SIMILARITY
from bcls_core.similarity.label_tables import neighbours_table
from bcls_core.similarity.labels import LabelWorker, Piece, Record, kind_of
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.row_book import EMBEDDINGS
from bcls_core.similarity.soft_labels import SOFT_LABELS, TailSample, soft_labels_table
from bcls_core.similarity.split_rows import SplitRows, gather_dense, open_dense

IVF = "ivf"

log = logging.getLogger(__name__)

Found = tuple[FloatArray, IntArray, dict[str, Any]]


class _MeasureWorker(LabelWorker):
    """What every stage about one measure has."""

    def __init__(
        self, root: str, corpus: str, labels: str, measure: str, settings: LabelSettings, earlier: str | None = None
    ) -> None:
        super().__init__(root, corpus, labels, earlier)
        self._measure = measure
        self._settings = settings
        self._kind = kind_of(settings.measures[measure])
        self._rows_of = lru_cache(maxsize=1)(self._read_split)

    @property
    def _ivf(self) -> IvfSearch:
        assert isinstance(self._settings.search, IvfSearch)  # noqa: S101 - stages of approximate search only
        return self._settings.search

    def _read_split(self, split: str | None) -> SplitRows:
        if self._kind == EMBEDDINGS:
            return open_dense(self._draft.scratch, self._folder(split))
        ids, images = self._splits.images(split)
        return SplitRows(ids, images, self._book(self._measure, self._kind, split).take(ids))

    def _folder(self, split: str | None) -> str:
        return f"rows/{self._measure}/{split}"

    def _plan(self, split: str | None) -> IvfPlan:
        return IvfPlan.from_table(self._draft.read_table(f"{IVF}/{self._measure}", self._part_of(split)))

    def _part_of(self, split: str | None) -> int:
        """Tables with a part for each split have them in the order in which splits appear in the corpus."""
        return self._splits.names.index(str(split))


class GatherSplit(_MeasureWorker):
    """A split's embeddings in order of caption ids, in working files that all workers of a machine map."""

    def __call__(self, piece: Piece) -> Record:
        split = piece["split"]
        ids, images = self._splits.images(split)
        tables = (
            self._draft.read_table(f"{self._kind}/{self._measure}", shard) for shard in self._splits.shards(split)
        )
        rows, dimension = gather_dense(self._draft.scratch, self._folder(split), ids, images, tables)
        return {"rows": rows, "dimension": dimension}


class FitIvf(_MeasureWorker):
    """Clusters of a split's embeddings, kept as a part of `ivf/MEASURE`."""

    def __call__(self, piece: Piece) -> Record:
        split = piece["split"]
        rows = self._rows_of(split).rows
        plan = fit_ivf(rows, clusters=self._ivf.clusters, seed=self._settings.seed, most_rows=self._ivf.most_rows)
        self._draft.write_table(f"{IVF}/{self._measure}", self._part_of(split), plan.to_table())
        return {"rows": len(rows), "clusters": len(plan.centroids), "largest": int(plan.sizes.max(initial=0))}


class SearchPanel(_MeasureWorker):
    """For each caption of some shards of a split the k most similar captions of it that describe other images.

    Equal scores go to the lower caption id. A caption with fewer than k such others has a shorter list. Written are
    the shards' parts of `neighbours/MEASURE` and, if the settings say so, of `soft_labels/MEASURE`. With earlier labels
    of the same settings, lists are built upon theirs: what comes out is the same, most of the work is spared.
    """

    def __init__(
        self, root: str, corpus: str, labels: str, measure: str, settings: LabelSettings, earlier: str | None = None
    ) -> None:
        super().__init__(root, corpus, labels, measure, settings, earlier)
        self._search_of = lru_cache(maxsize=1)(self._prepare)
        self._tail_of = lru_cache(maxsize=1)(self._sample)

    def __call__(self, piece: Piece) -> Record:
        shards = piece["shards"]
        split = self._splits.of_shard[shards[0]]
        owns = [
            self._corpus.read("captions", shard, ["caption_id"]).column("caption_id").to_numpy() for shard in shards
        ]
        if split is None:
            ids, places = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
            scores, found = np.empty((0, self._k), dtype=np.float32), np.empty((0, self._k), dtype=np.int64)
            built: dict[str, Any] = {}
        else:
            ids = self._rows_of(split).ids
            places = np.searchsorted(ids, np.concatenate(owns))
            scores, found, built = self._search_of(split)(places)
        neighbours = np.where(found >= 0, ids[found], -1) if len(ids) else found
        edges = np.concatenate([[0], np.cumsum([len(own) for own in owns])])
        parts = [slice(first, last) for first, last in pairwise(edges)]
        for shard, own, part in zip(shards, owns, parts, strict=True):
            table = neighbours_table(self._measure, own, neighbours[part], scores[part])
            self._draft.write_table(f"neighbours/{self._measure}", shard, table)
        if self._settings.soft_labels is not None:
            probs, tail = self._soft_labels(split, places, scores, found)
            for shard, own, part in zip(shards, owns, parts, strict=True):
                table = soft_labels_table(self._measure, own, neighbours[part], probs[part], tail[part])
                self._draft.write_table(f"{SOFT_LABELS}/{self._measure}", shard, table)
        return {"rows": len(places), "neighbours": int((found >= 0).sum())} | built

    @cached_property
    def _k(self) -> int:
        return self._settings.neighbours

    def _soft_labels(self, split: str | None, places: IntArray, scores: FloatArray, found: IntArray) -> Any:
        settings = self._settings.soft_labels
        if split is None or settings is None:
            return np.empty((0, self._k + 1), dtype=np.float32), np.empty(0, dtype=np.float32)
        return self._tail_of(split).distributions(places, scores, found, settings.temperature)

    def _sample(self, split: str) -> TailSample:
        whole = self._rows_of(split)
        size = self._settings.soft_labels.tail_sample if self._settings.soft_labels else 0
        return TailSample(SIMILARITY[self._kind], whole.rows, np.asarray(whole.images), size, self._settings.seed)

    def _prepare(self, split: str) -> Callable[[IntArray], Found]:
        """The split's search: places of captions to scores, places, and how many lists were built in which way."""
        whole = self._rows_of(split)
        rows, images, k = whole.rows, whole.images, self._k
        if isinstance(self._settings.search, IvfSearch):
            plan, search = self._plan(split), self._settings.search
            return lambda places: (
                *plan.search(rows, k, probes=search.probes, panel=places, exclude=images, most_rows=search.most_rows),
                {},
            )
        if self._earlier is not None and (updating := self._updating(split, self._earlier)) is not None:
            return updating
        nearest = SIMILARITY[self._kind].search_of(rows, k, exclude=images)
        return lambda places: (*nearest(places), {})

    def _updating(self, split: str, version: str) -> Callable[[IntArray], Found] | None:
        """A search that builds upon earlier labels; None where those have nothing sound to build upon."""
        whole, k, similarity = self._rows_of(split), self._k, SIMILARITY[self._kind]
        try:
            earlier = EarlierLabels(self._store, version, self._measure, self._kind)
            if not earlier.has(split):
                return None
            kept, lists = kept_captions(earlier.rows(split), whole), earlier.lists(split, k)
        except BclsError as error:
            log.warning("labels %s are not built upon, all lists are made anew: %s", version, error)
            return None

        @cache
        def anew() -> Search:
            return similarity.search_of(whole.rows, k, exclude=whole.images)

        def search(places: IntArray) -> Found:
            order = np.argsort(places)
            updated, done = update_neighbours(
                similarity, whole, k, lists, kept, panel=whole.ids[places[order]], search=lambda asked: anew()(asked)
            )
            scores, ids = updated.to_arrays(k)
            found = np.where(ids >= 0, np.searchsorted(whole.ids, ids), -1)
            back = np.argsort(order)
            how = {"upon": version, "kept": done.kept, "repaired": done.repaired, "new": done.new}
            return scores[back], found[back], how

        return search


class MeasureRecall(_MeasureWorker):
    """How much the approximate search of a split missed, on captions drawn by the settings' seed."""

    def __call__(self, piece: Piece) -> Record:
        split = piece["split"]
        whole, search = self._rows_of(split), self._ivf
        measured = measure_recall(
            self._plan(split), whole.rows, self._settings.neighbours, probes=search.probes,
            sample=search.recall_sample, seed=self._settings.seed, exclude=whole.images, most_rows=search.most_rows,
        )  # fmt: skip
        return {"split": split, "recall": measured.as_dict()}
