"""What `tests.benchmarks.all_pairs` measures against: faiss's flat index and the search of sentence-transformers.

Both are given what they like best: rows of unit length in fp32, an index that holds them or a tensor, ready before the
clock starts. They find every row as its own neighbour, so they are asked for one more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from sentence_transformers.util import dot_score, semantic_search

from bcls_core.similarity.cosine import ExactRows, StoredRows, cosine_pairs
from bcls_core.similarity.measure import FloatArray, IntArray

Settings = dict[str, int]

_AT_ONCE = 16_384  # rows


class Faiss:
    """`IndexFlatIP`, with the block sizes of its matrix products and the way it selects."""

    name = "faiss"
    swept: tuple[Settings, ...] = tuple(
        {"query_bs": queries, "database_bs": database, "min_k_reservoir": reservoir}
        for (queries, database), reservoir in itertools.product(
            ((4096, 1024), (1024, 4096), (4096, 4096), (4096, 16_384)), (100, 1000)
        )
    )  # defaults first; below min_k_reservoir it selects by a heap

    def __init__(self, rows: StoredRows) -> None:
        faiss.omp_set_num_threads(torch.get_num_threads())
        unit = unit_rows(rows)
        self._index = faiss.IndexFlatIP(rows.shape[1])
        self._index.add(unit)
        self._unit = faiss.rev_swig_ptr(self._index.get_xb(), unit.size).reshape(unit.shape)
        self.input_bytes = unit.nbytes

    def search(self, k: int, settings: Settings) -> Any:
        """Scores and ids, k + 1 of them."""
        for name, value in settings.items():
            known = name if name == "min_k_reservoir" else f"blas_{name}"
            setattr(faiss.cvar, f"distance_compute_{known}", value)
        return self._index.search(self._unit, k + 1)

    @staticmethod
    def ids(found: Any, k: int) -> IntArray:
        """(rows, k) neighbours of what `search` returned."""
        return without_self(found[1], k)


class SemanticSearch:
    """`sentence_transformers.util.semantic_search` by dot product, with the sizes of its chunks."""

    name = "semantic_search"
    swept: tuple[Settings, ...] = tuple(
        {"query_chunk_size": queries, "corpus_chunk_size": corpus}
        for queries, corpus in itertools.product((100, 500, 2000), (500_000, 20_000))
    )  # defaults first

    def __init__(self, rows: StoredRows) -> None:
        self._unit = torch.from_numpy(unit_rows(rows))
        self.input_bytes = self._unit.numel() * 4

    def search(self, k: int, settings: Settings) -> Any:
        """Lists of dicts, k + 1 for each row."""
        return semantic_search(self._unit, self._unit, top_k=k + 1, score_function=dot_score, **settings)

    @staticmethod
    def ids(found: Any, k: int) -> IntArray:
        """(rows, k) neighbours of what `search` returned."""
        wide = np.empty((len(found), k + 1), dtype=np.int64)
        for row, entries in enumerate(found):
            wide[row] = [entry["corpus_id"] for entry in entries]
        return without_self(wide, k)


PEERS: dict[str, type[Faiss | SemanticSearch]] = {"faiss": Faiss, "semantic_search": SemanticSearch}


def unit_rows(rows: StoredRows) -> FloatArray:
    """(rows, dimension) fp32 rows of unit length."""
    unit = np.empty(rows.shape, dtype=np.float32)
    for part in _parts(len(rows)):
        unit[part] = ExactRows.of(rows[part]).unit()
    return unit


def without_self(ids: IntArray, k: int) -> IntArray:
    """(rows, k) of (rows, k + 1) ids: without the row itself, or without the last where equal rows came before it."""
    own = ids == np.arange(len(ids))[:, None]
    own[~own.any(axis=1), -1] = True
    left: IntArray = ids[~own].reshape(len(ids), k)
    return left


def fp32_error(dimension: int) -> float:
    """Bound on what fp32 takes from the dot product of two unit rows: rounded rows, then products and sums."""
    return (dimension + 4) * 2.0**-24


@dataclass(frozen=True)
class Compared:
    """How a peer's neighbours differ from exact ones.

    Attributes:
        rows: queries whose sets of neighbours differ.
        ids: neighbours that only the peer has.
        ties: of them those with exactly the score of a row's last neighbour, which any of them may be.
        largest: by which an exact score is below ours at the same place.
        allowed: by which it may be, since fp32 errs.
    """

    rows: int
    ids: int
    ties: int
    largest: float
    allowed: float


def compare(rows: StoredRows, scores: FloatArray, ids: IntArray, theirs: IntArray) -> Compared:
    """Our exact neighbours against a peer's, whose own scores are not asked: theirs are made exact.

    Raises:
        AssertionError: a published score of ours is not that of the pair, a peer's neighbours are better than ours, or
            they are worse than fp32 explains.
    """
    drawn = np.random.default_rng(2).choice(len(rows), size=min(1000, len(rows)), replace=False)
    assert np.array_equal(_exact(rows, drawn, ids[drawn]), scores[drawn])
    assert (theirs != np.arange(len(rows))[:, None]).all()
    ours_sorted, theirs_sorted = np.sort(ids, axis=1), np.sort(theirs, axis=1)
    assert (np.diff(theirs_sorted, axis=1) > 0).all()
    differing = np.flatnonzero((ours_sorted != theirs_sorted).any(axis=1))
    allowed = 2 * fp32_error(rows.shape[1]) + 2.0**-24
    others, ties, largest = 0, 0, 0.0
    for part in _parts(len(differing)):
        asked = differing[part]
        exact = _exact(rows, asked, theirs[asked])
        below = scores[asked].astype(np.float64) - np.sort(exact, axis=1)[:, ::-1]
        assert below.min() >= 0, below.min()
        largest = max(largest, float(below.max()))
        for row, values in zip(asked, exact, strict=True):
            only = ~np.isin(theirs[row], ids[row])
            others += int(only.sum())
            ties += int((values[only] == scores[row, -1]).sum())
    assert largest <= allowed, (largest, allowed)
    return Compared(len(differing), others, ties, largest, allowed)


def _exact(rows: StoredRows, asked: IntArray, ids: IntArray) -> FloatArray:
    """(asked, k) published scores."""
    scores = np.empty(ids.shape, dtype=np.float32)
    for part in _parts(len(asked), 1024):
        of_part = ids[part]
        own = np.repeat(rows[asked[part]], ids.shape[1], axis=0)
        scores[part] = cosine_pairs(own, rows[of_part.ravel()]).reshape(of_part.shape)
    return scores


def _parts(count: int, step: int = _AT_ONCE) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
