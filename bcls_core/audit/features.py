"""Images of one split that another split holds too, in a corpus of features: by their cosine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bcls_core.audit.nearest import nearest_of_chunks
from bcls_core.data.rows import CorpusRows
from bcls_core.similarity import EmbeddingCosine
from bcls_core.similarity.measure import FloatArray, IntArray

_CHUNK = 16_384


def nearest_features(queries: CorpusRows, rows: CorpusRows) -> tuple[FloatArray, IntArray]:
    """The image of `rows` whose features have the highest cosine with each image's of `queries`, exact.

    Features of zeros have no direction: they match nothing. Memory: the features of `queries`, and a chunk of `rows`.

    Returns:
        (images,) scores and row numbers; -inf and -1 for nothing.
    """
    scores: FloatArray = np.full(queries.image_count, -np.inf, dtype=np.float32)
    found: IntArray = np.full(queries.image_count, -1, dtype=np.int64)
    asked = [(numbers, features) for numbers, features in _chunks(queries) if len(numbers)]
    if asked:
        numbers = np.concatenate([part for part, _ in asked])
        features = np.concatenate([part for _, part in asked])
        scores[numbers], found[numbers] = nearest_of_chunks(EmbeddingCosine.similarity, features, _chunks(rows))
    return scores, found


def _chunks(rows: CorpusRows) -> Iterator[tuple[IntArray, Any]]:
    for start in range(0, rows.image_count, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, rows.image_count))
        features = rows.features(numbers)
        pointing = features.any(axis=1)
        yield numbers[pointing], features[pointing]
