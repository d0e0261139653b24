"""Nearest rows past brute force: rows filed under centroids, and a query looks only under the centroids nearest to it.

What is approximate is which rows are looked at. The score of every row that is found is the published exact number,
ties go to the lower row number, and excluded rows are never found. Rows are filed once, in a plan (`fit_ivf`), which is
a table; any number of searches then run anywhere and in any order, and each result depends on the plan, the rows and
the query alone. How much is missed is measured, never assumed (`ivf_recall`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from bcls_core.errors import ShapeError, StoreError
from bcls_core.similarity.cosine import StoredRows
from bcls_core.similarity.ivf_search import MOST_ROWS, Asked, asked_of, best_of, mapped_rows, nearest_among
from bcls_core.similarity.measure import FloatArray, Groups, IntArray
from bcls_core.similarity.top_k import top_k

IVF_VERSION = 1
"""Raised by hand whenever a plan or what a search finds changes."""

PROBES = 32
"""Clusters looked at by default. Of the 32 nearest of 90,382 Flickr30k captions (MiniLM, 301 clusters, captions of the
same image excluded) 97.1 % were found with 32, 93.4 % with 16 and 87.5 % with 8."""

_PLACES = 2**23  # candidates kept until they are merged, 12 bytes each
_MERGED_AT_ONCE = 2**19  # of which so many, as 8-byte keys, stay near the cache


@dataclass(frozen=True, eq=False)
class IvfPlan:
    """Rows filed under centroids.

    Attributes:
        centroids: (clusters, dimension) fp16.
        order: (rows,) row numbers, cluster by cluster, ascending in each.
        starts: (clusters + 1,) where each cluster begins in `order`.
    """

    centroids: StoredRows
    order: IntArray
    starts: IntArray

    @property
    def sizes(self) -> IntArray:
        """(clusters,) rows of each."""
        return np.diff(self.starts)

    def search(
        self,
        rows: ArrayLike,
        k: int,
        *,
        probes: int = PROBES,
        queries: ArrayLike | None = None,
        panel: ArrayLike | None = None,
        exclude: Groups | None = None,
        exclude_queries: Groups | None = None,
        most_rows: int = MOST_ROWS,
    ) -> tuple[FloatArray, IntArray]:
        """The k nearest rows in the `probes` clusters whose centroids are nearest to each query.

        Memory beyond the arguments and the result: `most_rows` rows, some 100 MiB of candidates, and what `top_k`
        takes.

        Args:
            rows: (rows, dimension) what the plan was made of; fp16 rows mapped from disk are read cluster by cluster.
            k: how many rows to find for each query.
            probes: clusters looked at; all of them if there are fewer, and then the result is exact.
            queries: (queries, dimension) vectors to find neighbours of.
            panel: (queries,) instead: numbers of rows to find neighbours of, which do not find themselves. All rows if
                both are None.
            exclude: (rows,) group of each row, for instance its image; rows of the query's own group are skipped.
            exclude_queries: (queries,) group of each query; needed when both `queries` and `exclude` are given.
            most_rows: rows of a cluster held at once; no influence on the result.
        Returns:
            scores: (queries, k) float32, descending; equal scores by ascending row number.
            ids: (queries, k) int64 row numbers. Where fewer than k rows were found, the places left over hold score
                -inf and id -1.
        Raises:
            ShapeError: shapes disagree, among them those of plan and rows, or a number is below 1.
        """
        if k < 1 or probes < 1 or most_rows < 1:
            raise ShapeError(f"found k={k}, probes={probes}, most_rows={most_rows}; each must be at least 1.")
        stored = mapped_rows(rows)
        if stored.shape != (len(self.order), self.centroids.shape[1]):
            raise ShapeError(
                f"found rows of shape {stored.shape}, but the plan files {len(self.order)} rows of "
                f"{self.centroids.shape[1]} values. Search the rows that it was fitted to."
            )
        asked = asked_of(stored, queries, panel, exclude, exclude_queries)
        probed = min(probes, len(self.centroids))
        scores = np.full((len(asked), k), -np.inf, dtype=np.float32)
        ids = np.full((len(asked), k), -1, dtype=np.int64)
        if not probed:
            return scores, ids
        step = max(1, _PLACES // (probed * k))
        for start in range(0, len(asked), step):
            block = slice(start, min(start + step, len(asked)))
            scores[block], ids[block] = self._search_block(stored, k, probed, asked, block, most_rows)
        return scores, ids

    def pieces(self, cluster: int, most_rows: int) -> Iterator[IntArray]:
        """Row numbers of a cluster, ascending, at most `most_rows` at a time."""
        for start in range(self.starts[cluster], self.starts[cluster + 1], most_rows):
            yield self.order[start : min(start + most_rows, self.starts[cluster + 1])]

    def to_table(self) -> pa.Table:
        """One row a cluster: its number, its centroid, and the numbers of its rows."""
        centroids = pa.FixedSizeListArray.from_arrays(pa.array(self.centroids.reshape(-1)), self.centroids.shape[1])
        filed = pa.LargeListArray.from_arrays(pa.array(self.starts), pa.array(self.order))
        numbers = pa.array(np.arange(len(self.centroids)))
        return pa.table([numbers, centroids, filed], schema=ivf_schema(self.centroids.shape[1]))

    @classmethod
    def from_table(cls, table: pa.Table) -> IvfPlan:
        """The inverse of `to_table`, for rows in any order.

        Raises:
            StoreError: not every row number from 0 on is there once.
        """
        table = table.sort_by("cluster")
        centroids = table.column("centroid").combine_chunks()
        filed = table.column("rows").combine_chunks()
        rows = centroids.flatten().to_numpy(zero_copy_only=False).reshape(-1, centroids.type.list_size)
        order = filed.flatten().to_numpy().astype(np.int64)
        if (np.sort(order) != np.arange(len(order))).any():
            raise StoreError(f"the plan does not file each of {len(order)} rows once. Make the labels again.")
        starts = np.concatenate([[0], np.cumsum(filed.value_lengths().to_numpy(zero_copy_only=False))])
        return cls(rows.astype(np.float16), order, starts.astype(np.int64))

    def _search_block(
        self, rows: StoredRows, k: int, probes: int, asked: Asked, block: slice, most_rows: int
    ) -> tuple[FloatArray, IntArray]:
        vectors, _ = asked.part(rows, block)
        _, probed = top_k(self.centroids, probes, queries=vectors)
        scores = np.full((*probed.shape, k), -np.inf, dtype=np.float32)
        ids = np.full((*probed.shape, k), -1, dtype=np.int64)
        query, slot = np.divmod(np.argsort(probed, axis=None, kind="stable"), probes)
        ends = np.cumsum(np.bincount(probed.ravel(), minlength=len(self.centroids)))
        for cluster in np.unique(probed):
            there = slice(ends[cluster - 1] if cluster else 0, ends[cluster])
            who, where = query[there], slot[there]
            pieces = self.pieces(cluster, most_rows)
            scores[who, where], ids[who, where] = nearest_among(rows, pieces, k, asked, who + block.start)
        scores, ids = scores.reshape(len(vectors), probes * k), ids.reshape(len(vectors), probes * k)
        step = max(1, _MERGED_AT_ONCE // (probes * k))
        parts = [slice(start, start + step) for start in range(0, len(vectors), step)]
        lists = [best_of(scores[part], ids[part], k) for part in parts]
        return np.concatenate([part for part, _ in lists]), np.concatenate([part for _, part in lists])


def ivf_schema(dimension: int) -> pa.Schema:
    """A plan as a table; `rows` are numbers of rows of the search it belongs to."""
    return pa.schema(
        [
            pa.field("cluster", pa.int64(), nullable=False),
            pa.field("centroid", pa.list_(pa.float16(), dimension), nullable=False),
            pa.field("rows", pa.large_list(pa.int64()), nullable=False),
        ]
    )
