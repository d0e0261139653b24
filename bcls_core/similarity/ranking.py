"""The best k of a stream of scored candidates, where ties go to the lower id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcls_core.similarity.measure import FloatArray, IntArray

MAX_ROWS = 2**32
"""Ids take the low half of a 64-bit key."""

_LOW = np.int64(MAX_ROWS - 1)
_EMPTY = np.iinfo(np.int64).min


def ordered(scores: FloatArray) -> NDArray[np.int32]:
    """int32 values that compare as the fp32 `scores` do; NaN is not allowed."""
    return _flip((scores + np.float32(0.0)).view(np.int32))  # adding 0 turns -0 into +0


def restored(values: NDArray[np.int32]) -> FloatArray:
    """The scores behind `ordered` values."""
    scores: FloatArray = _flip(values).view(np.float32)
    return scores


class BestK:
    """Running best k candidates of each of some queries.

    Score and id are packed into one integer, so that "higher score, then lower id" is plain integer order: what is kept
    is the same set whatever the order in which candidates are offered, and integers have no ties to break.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._keys: IntArray = np.full((queries, k), _EMPTY, dtype=np.int64)

    def offer_block(self, scores: FloatArray, first_id: int) -> None:
        """Candidates `first_id`, `first_id + 1`, ... for every query.

        Args:
            scores: (queries, candidates); -inf where a candidate must not be taken.
        """
        ids = np.arange(first_id, first_id + scores.shape[1], dtype=np.int64)
        self._keep(_pack(scores, ids[None, :]))

    def offer_pairs(self, queries: IntArray, ids: IntArray, scores: FloatArray) -> None:
        """Single candidates: `ids[i]` for query `queries[i]`; `queries` ascending."""
        if not len(queries):
            return
        counts = np.bincount(queries, minlength=len(self._keys))
        starts = np.cumsum(counts) - counts
        keys = np.full((len(self._keys), counts.max()), _EMPTY, dtype=np.int64)
        keys[queries, np.arange(len(queries)) - starts[queries]] = _pack(scores, ids)
        self._keep(keys)

    def floor(self) -> FloatArray:
        """(queries,) score a further candidate must reach; -inf where fewer than k are known."""
        return _scores(self._keys.min(axis=1))

    def result(self) -> tuple[FloatArray, IntArray]:
        """(queries, k) scores, descending, and ids; places nothing was found for hold -inf and -1."""
        keys = np.sort(self._keys, axis=1)[:, ::-1]
        scores = _scores(keys)
        ids = np.where(np.isneginf(scores), -1, _LOW - (keys & _LOW))
        return scores, ids

    def _keep(self, keys: IntArray) -> None:
        joined = np.concatenate([self._keys, keys], axis=1)
        surplus = joined.shape[1] - self._k
        if surplus:
            joined = np.partition(joined, surplus, axis=1)[:, surplus:]
        self._keys = joined


def _pack(scores: FloatArray, ids: IntArray) -> IntArray:
    keys: IntArray = (ordered(scores).astype(np.int64) << 32) | (_LOW - ids)
    return keys


def _scores(keys: IntArray) -> FloatArray:
    return np.where(keys == _EMPTY, np.float32(-np.inf), restored((keys >> 32).astype(np.int32)))


def _flip(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Turns fp32 bit patterns into integers of the same order, and back: negative numbers count downwards."""
    flipped: NDArray[np.int32] = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return flipped
