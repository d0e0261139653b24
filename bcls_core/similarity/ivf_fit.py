"""Filing rows under centroids: k-means of a sample by faiss, then every row under the centroid nearest to it.

faiss proposes centroids and decides nothing else. They are rounded to fp16 rows, and which of them is nearest to a row
is decided by their exact cosines. k-means runs on one thread, for the last bits of a matrix product depend on how many
share it: the same rows and seed give the same plan whatever a machine's threads are set to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.similarity.cosine import ExactRows, StoredRows, stored_rows
from bcls_core.similarity.ivf import IvfPlan
from bcls_core.similarity.ivf_search import MOST_ROWS, mapped_rows
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.top_k import top_k

SAMPLE_PER_CLUSTER = 64
"""Rows a centroid is fitted to by default."""

_ITERATIONS = 10
_ROWS_AT_ONCE = 16_384
_DEEPEST = 16  # splits of splits, should each part with a few rows only


def default_clusters(rows: int) -> int:
    """The square root, where comparing with all centroids costs as much as looking into one cluster."""
    return max(1, round(math.sqrt(rows)))


def fit_ivf(
    rows: ArrayLike,
    *,
    clusters: int | None = None,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
    sample: int | None = None,
) -> IvfPlan:
    """File rows under centroids.

    A cluster of more than `most_rows` rows is split by k-means of its own, and again, until none is larger; only rows
    that k-means cannot tell apart stay together beyond that, and a search walks through them in pieces. Memory beyond
    the arguments and the result: the sample in fp32, 16,384 rows, and what `top_k` takes.

    Args:
        rows: (rows, dimension); fp16 rows mapped from disk are read in blocks.
        clusters: wanted; the square root of the rows if None. The plan may have fewer, as clusters of no row are left
            out, or more, as large ones are split.
        seed: of the sample and of k-means.
        most_rows: rows of a cluster.
        sample: rows that centroids are fitted to; 64 a cluster if None.
    Raises:
        ConfigError: faiss is not installed.
        ShapeError: a number is below 1, or a row is zero, NaN or infinite.
    """
    stored = mapped_rows(rows)
    wanted = default_clusters(len(stored)) if clusters is None else clusters
    drawn = SAMPLE_PER_CLUSTER * wanted if sample is None else sample
    if wanted < 1 or most_rows < 1 or drawn < 1:
        raise ShapeError(f"found clusters={wanted}, most_rows={most_rows}, sample={drawn}; each must be at least 1.")
    fit = _Fit(_load_faiss(), stored, seed, most_rows, drawn)
    filed = list(fit.split(np.arange(len(stored), dtype=np.int64), wanted))
    lengths = np.array([len(members) for _, members in filed], dtype=np.int64)
    return IvfPlan(
        np.array([centroid for centroid, _ in filed], dtype=np.float16).reshape(len(filed), stored.shape[1]),
        np.concatenate([members for _, members in filed]) if filed else np.empty(0, dtype=np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


class _Fit:
    """The rows, and what stays the same while they are split."""

    def __init__(self, faiss: Any, rows: StoredRows, seed: int, most_rows: int, sample: int) -> None:
        self._faiss = faiss
        self._rows = rows
        self._seed = seed
        self._most_rows = most_rows
        self._sample = sample

    def split(self, members: IntArray, parts: int, depth: int = 0) -> Iterator[tuple[StoredRows, IntArray]]:
        """Centroids and the ascending rows under each; none is empty, and none larger than it need be."""
        if not len(members):
            return
        centroids = self._centroids(members, parts)
        nearest = self._nearest(members, centroids)
        for cluster in np.unique(nearest):
            inside = members[nearest == cluster]
            separated = len(inside) < len(members) or depth == 0
            if len(inside) > self._most_rows and separated and depth < _DEEPEST:
                yield from self.split(inside, -(-len(inside) // self._most_rows), depth + 1)
            else:
                yield centroids[cluster], inside

    def _centroids(self, members: IntArray, parts: int) -> StoredRows:
        """(at most parts, dimension), rounded as rows are stored."""
        dice = np.random.default_rng([self._seed, len(members), int(members[0])])
        size = min(self._sample, len(members))
        sample = np.sort(dice.choice(members, size=size, replace=False))
        unit = self._unit(sample)
        if parts == 1 or size == 1:
            means = unit.mean(axis=0, keepdims=True)
        else:
            means = _k_means(self._faiss, unit, min(parts, size), int(dice.integers(2**31)))
        with np.errstate(invalid="ignore"):
            centroids: StoredRows = means.astype(np.float16)
        usable = np.isfinite(centroids).all(axis=1) & centroids.any(axis=1)
        return centroids[usable] if usable.any() else self._rows[sample[:1]]

    def _unit(self, members: IntArray) -> FloatArray:
        unit = np.empty((len(members), self._rows.shape[1]), dtype=np.float32)
        for block in _blocks(len(members)):
            unit[block] = ExactRows.of(self._checked(members[block])).unit()
        return unit

    def _nearest(self, members: IntArray, centroids: StoredRows) -> IntArray:
        """(members,) number of the centroid with the highest exact cosine, the lower one of equals."""
        nearest = np.empty(len(members), dtype=np.int64)
        for block in _blocks(len(members)):
            nearest[block] = top_k(centroids, 1, queries=self._checked(members[block]))[1][:, 0]
        return nearest

    def _checked(self, members: IntArray) -> StoredRows:
        return stored_rows(self._rows[members], f"rows {members[0]} to {members[-1]}, {len(members)} of them")


def _k_means(faiss: Any, unit: FloatArray, parts: int, seed: int) -> FloatArray:
    """(parts, dimension) directions."""
    means = faiss.Kmeans(
        unit.shape[1],
        parts,
        niter=_ITERATIONS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(unit),
    )
    with _one_thread(faiss):
        means.train(unit)
    centroids: FloatArray = means.centroids
    return centroids


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _load_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"approximate neighbours need faiss, which cannot be imported ({error}).\n"
            "  Install it: pip install 'bcls[ann]', or ask for exact neighbours."
        ) from error
    return faiss


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS_AT_ONCE):
        yield slice(start, min(start + _ROWS_AT_ONCE, count))
