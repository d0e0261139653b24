"""What of a corpus is still as it was, so that neighbours found before still hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.similarity.counted_rows import CountedRows
from bcls_core.similarity.measure import IntArray
from bcls_core.similarity.split_rows import SplitRows

_ROWS = 2**14  # compared at once


def kept_captions(old: SplitRows, new: SplitRows) -> IntArray:
    """Ids of captions with the same stored row before and now, any two of which share an image now if they did before.

    What images are called does not matter. Where captions moved between images, few are given up: of each image's
    captions those are kept that stayed together with the most others, the largest such groups choosing first.

    Args:
        old, new: the split before and now, by the same measure.
    Returns:
        Ascending int64 ids.
    """
    ids, before, now = np.intersect1d(old.ids, new.ids, assume_unique=True, return_indices=True)
    same = np.zeros(len(ids), dtype=np.bool_)
    for start in range(0, len(ids), _ROWS):
        part = slice(start, start + _ROWS)
        same[part] = _equal(old.rows[before[part]], new.rows[now[part]])
    ids, before, now = ids[same], before[same], now[same]
    kept: IntArray = ids[_together(np.asarray(old.images)[before], np.asarray(new.images)[now])]
    return kept


def _equal(a: Any, b: Any) -> NDArray[np.bool_]:
    """(rows,) True where row i of both has the same bits."""
    if isinstance(a, CountedRows):
        same: NDArray[np.bool_] = _equal(a.weights, b.weights) & _equal(a.counts, b.counts) & (a.lengths == b.lengths)
        return same
    if isinstance(a, np.ndarray):
        if a.shape != b.shape:
            return np.zeros(len(a), dtype=np.bool_)
        equal: NDArray[np.bool_] = (a.view(np.uint16) == b.view(np.uint16)).all(axis=1)
        return equal
    lengths = np.diff(a.indptr)
    same = lengths == np.diff(b.indptr)
    alike = np.flatnonzero(same)
    a, b = a[alike], b[alike]
    differ = (a.indices != b.indices) | (a.data != b.data)
    same[np.repeat(alike, lengths[alike])[differ]] = False
    return same


def _together(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.bool_]:
    """(captions,) True for captions of which any two are of one new image if and only if they were of one old image.

    These are the captions of some pairs of an old and a new image, no image being in two pairs.
    """
    old_image, new_image = (np.unique(images, return_inverse=True)[1].astype(np.int64) for images in (old, new))
    width = int(new_image.max(initial=-1)) + 1
    pairs, pair_of, sizes = np.unique(old_image * width + new_image, return_inverse=True, return_counts=True)
    befores, nows = np.divmod(pairs, max(width, 1))
    alone = (np.bincount(befores)[befores] == 1) & (np.bincount(nows)[nows] == 1)
    taken = alone.copy()
    used: tuple[set[int], set[int]] = (set(), set())
    disputed = np.flatnonzero(~alone)
    for pair in disputed[np.argsort(-sizes[disputed], kind="stable")].tolist():
        before, now = int(befores[pair]), int(nows[pair])
        if before not in used[0] and now not in used[1]:
            taken[pair] = True
            used[0].add(before)
            used[1].add(now)
    kept: NDArray[np.bool_] = taken[pair_of]
    return kept
