"""Compiled search of the nearest bit strings. Importing it loads the compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled

Words = NDArray[np.uint64]

_CHUNK = 512  # distances computed in wide registers before any is looked at


@compiled
def _bits(word: Any) -> Any:
    """How many bits of a 64-bit word are set."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def nearest(queries: Words, rows: Words, most: int, distances: NDArray[np.int32], places: NDArray[np.int64]) -> None:
    """For each query the nearest rows within a distance: by distance, then by row.

    Args:
        queries: (queries, words).
        rows: (words, rows), so that one word of many rows lies together.
        most: the largest distance that counts.
        distances, places: (queries, k) to be written; -1 where nothing more was found.
    """
    words, count = rows.shape
    first = (words + 1) // 2  # half of the bits already tell most rows apart
    kept_at_most = distances.shape[1]
    chunk = np.empty(_CHUNK, np.uint64)
    for query in range(len(queries)):
        kept = 0
        limit = np.int64(most)
        for start in range(0, count, _CHUNK):
            width = min(_CHUNK, count - start)
            chunk[:] = 0
            for word in range(first):
                mine = queries[query, word]
                part = rows[word, start : start + width]
                for j in range(width):
                    chunk[j] += _bits(mine ^ part[j])
            for j in range(width):
                distance = np.int64(chunk[j])
                if distance > limit:
                    continue
                for word in range(first, words):
                    distance += np.int64(_bits(queries[query, word] ^ rows[word, start + j]))
                if distance > limit:
                    continue
                place = min(kept, kept_at_most - 1)
                while place > 0 and distances[query, place - 1] > distance:
                    distances[query, place] = distances[query, place - 1]
                    places[query, place] = places[query, place - 1]
                    place -= 1
                distances[query, place] = distance
                places[query, place] = start + j
                kept = min(kept + 1, kept_at_most)
                if kept == kept_at_most:  # a later row of the same distance does not come in
                    limit = np.int64(distances[query, kept - 1]) - 1
