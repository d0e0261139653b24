"""The most similar row elsewhere, where elsewhere is read in chunks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bcls_core.similarity.measure import FloatArray, IntArray, RowSimilarity


def nearest_of_chunks(
    similarity: RowSimilarity[Any], queries: Any, chunks: Iterable[tuple[IntArray, Any]]
) -> tuple[FloatArray, IntArray]:
    """For each query the most similar row of all chunks, exact.

    Args:
        queries: stored rows.
        chunks: ids and stored rows; ids ascend within a chunk and from one to the next, so ties go to the lower id.
    Returns:
        (queries,) scores and ids; -inf and -1 where the chunks hold nothing.
    """
    count = queries.shape[0]
    scores: FloatArray = np.full(count, -np.inf, dtype=np.float32)
    ids: IntArray = np.full(count, -1, dtype=np.int64)
    for chunk_ids, rows in chunks:
        if not len(chunk_ids) or not count:
            continue
        found, places = similarity.top_k(rows, 1, queries=queries)
        better = found[:, 0] > scores
        scores[better] = found[better, 0]
        ids[better] = chunk_ids[places[better, 0]]
    return scores, ids
