"""Lists of neighbours as a label set holds them: by caption id, each as long as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ShapeError
from bcls_core.similarity.measure import FloatArray, IntArray

_SPARSEST = 4  # entries of a table for each id


@dataclass(frozen=True, eq=False)
class Lists:
    """The most similar captions of some captions of one split, by one measure; nobody better is left out.

    Attributes:
        ids: (captions,) int64, ascending: whose lists these are.
        starts: (captions + 1,) int64: list i is `starts[i]` to `starts[i + 1]` of the next two.
        neighbours: int64 caption ids.
        scores: float32, descending in each list; equal scores by ascending id.
        k: a shorter list holds everything its caption may find; longer ones have places to spare.
    Raises:
        ShapeError: ids do not ascend, lengths disagree, or k is below 1.
    """

    ids: IntArray
    starts: IntArray
    neighbours: IntArray
    scores: FloatArray
    k: int

    def __post_init__(self) -> None:
        check_ascending(self.ids, "ids of the lists")
        total = int(self.starts[-1]) if len(self.starts) else -1
        if len(self.starts) != len(self.ids) + 1 or total != len(self.neighbours) or total != len(self.scores):
            raise ShapeError(
                f"found {len(self.ids)} ids, {len(self.starts)} starts up to {total}, {len(self.neighbours)} neighbours"
                f" and {len(self.scores)} scores. Give one more start than ids, and a score for each neighbour."
            )
        if self.k < 1:
            raise ShapeError(f"found k={self.k}; it must be at least 1.")

    @property
    def lengths(self) -> IntArray:
        """(captions,) neighbours of each."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, ids: IntArray, scores: FloatArray, neighbours: IntArray, k: int | None = None) -> Lists:
        """Lists from (captions, places) arrays as a search gives them, where a neighbour of -1 ends a list early.

        Args:
            k: places that count, as many as there are if None; the others are to spare.
        """
        there = np.isfinite(scores)
        starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
        least = scores.shape[1] if k is None else k
        return cls(np.asarray(ids, dtype=np.int64), starts, neighbours[there], scores[there], least)

    @classmethod
    def joined(cls, parts: Iterable[Lists]) -> Lists:
        """The lists of several panels or shards, which share no caption, in order of ids.

        Raises:
            ShapeError: there is no part, parts disagree in k, or a caption has two lists.
        """
        lists = list(parts)
        if len({part.k for part in lists}) != 1:
            raise ShapeError(f"found parts with k of {sorted({part.k for part in lists})}. Join parts of one k.")
        lengths = np.concatenate([part.lengths for part in lists])
        return cls.in_order(
            np.concatenate([part.ids for part in lists]),
            lengths,
            np.concatenate([part.neighbours for part in lists]),
            np.concatenate([part.scores for part in lists]),
            lists[0].k,
        )

    @classmethod
    def in_order(cls, ids: IntArray, lengths: IntArray, neighbours: IntArray, scores: FloatArray, k: int) -> Lists:
        """Lists that stand one after the other in any order of ids."""
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        order = np.argsort(ids, kind="stable")
        cells = cells_of(starts, order)
        ends = np.cumsum(lengths[order])
        return cls(ids[order], np.concatenate([[0], ends]).astype(np.int64), neighbours[cells], scores[cells], k)

    def to_arrays(self, width: int) -> tuple[FloatArray, IntArray]:
        """(captions, width) scores and ids of neighbours, -inf and -1 behind the end of a list."""
        there = np.arange(width) < self.lengths[:, None]
        scores = np.full(there.shape, -np.inf, dtype=np.float32)
        ids = np.full(there.shape, -1, dtype=np.int64)
        scores[there], ids[there] = self.scores, self.neighbours
        return scores, ids

    def shortened(self) -> Lists:
        """The lists without places to spare."""
        lengths = np.minimum(self.lengths, self.k)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        cells = np.repeat(self.starts[:-1] - starts[:-1], lengths) + np.arange(starts[-1])
        return Lists(self.ids, starts, self.neighbours[cells], self.scores[cells], self.k)

    def places(self, ids: IntArray) -> IntArray:
        """Where the lists of these captions are.

        Raises:
            ShapeError: a caption has no list.
        """
        found: IntArray = np.searchsorted(self.ids, ids)
        missing = ~among(ids, self.ids)
        if missing.any():
            raise ShapeError(
                f"caption {int(ids[int(np.argmax(missing))])} has no list among {len(self.ids)}. "
                "Give the lists of every caption that was kept."
            )
        return found

    def same(self, other: Lists, ids: IntArray) -> NDArray[np.bool_]:
        """(len(ids),) True where a caption has the same list in both: ids, bits of the scores, order and length."""
        mine, others = self.places(ids), other.places(ids)
        same: NDArray[np.bool_] = self.lengths[mine] == other.lengths[others]
        alike = np.flatnonzero(same)
        own, theirs = cells_of(self.starts, mine[alike]), cells_of(other.starts, others[alike])
        differ = self.neighbours[own] != other.neighbours[theirs]
        differ |= self.scores[own].view(np.int32) != other.scores[theirs].view(np.int32)
        list_of = np.repeat(alike, self.lengths[mine[alike]])
        same[list_of[differ]] = False
        return same


def reusable_shards(
    old: Lists, new: Lists, old_shards: Sequence[IntArray], shards: Sequence[IntArray]
) -> dict[int, int]:
    """Shard -> older shard that holds the same captions in the same order with the same lists: its file may be reused.

    Args:
        old, new: lists of all captions of the shards.
        old_shards, shards: the caption ids of each shard, in the order of its rows; no caption is in two shards.
    """
    first_of = {int(ids[0]): number for number, ids in enumerate(old_shards) if len(ids)}
    reusable = {}
    for number, ids in enumerate(shards):
        older = first_of.get(int(ids[0])) if len(ids) else None
        if older is not None and np.array_equal(old_shards[older], ids) and bool(old.same(new, ids).all()):
            reusable[number] = older
    return reusable


def cells_of(starts: IntArray, places: IntArray) -> IntArray:
    """Numbers of the cells of some lists, list after list."""
    lengths = starts[places + 1] - starts[places]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    cells: IntArray = np.repeat(starts[places] - (ends - lengths), lengths) + np.arange(total)
    return cells


class PlaceOf:
    """Where ids are among ascending ones, looked up in a table if those lie close together."""

    def __init__(self, ids: IntArray) -> None:
        self._ids = ids
        self._lowest = int(ids[0]) if len(ids) else 0
        span = int(ids[-1]) - self._lowest + 1 if len(ids) else 0
        self._table: IntArray | None = None
        if span <= _SPARSEST * len(ids):
            self._table = np.full(span + 2, -1, dtype=np.int64)  # an entry at both ends for ids beyond
            self._table[ids - self._lowest + 1] = np.arange(len(ids))

    def __call__(self, ids: IntArray) -> IntArray:
        """(len(ids),) place of each id, -1 where it is not there."""
        if self._table is not None:
            places: IntArray = self._table.take(ids - self._lowest + 1, mode="clip")
            return places
        return np.where(among(ids, self._ids), np.searchsorted(self._ids, ids), -1)


def among(ids: IntArray, known: IntArray) -> NDArray[np.bool_]:
    """(len(ids),) True where an id is one of `known`, which ascend."""
    if not len(known):
        return np.zeros(len(ids), dtype=np.bool_)
    found: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids
    return found


def check_ascending(ids: IntArray, what: str) -> None:
    """Refuses ids that do not ascend, each once."""
    wrong = np.flatnonzero(np.diff(ids) <= 0)
    if len(wrong):
        place = int(wrong[0])
        raise ShapeError(f"{what}: {ids[place]} comes before {ids[place + 1]}. Give each id once, ascending.")
