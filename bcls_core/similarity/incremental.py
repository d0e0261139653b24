"""Neighbours of a changed corpus from those of the corpus before, equal to those computed anew.

What an old list proves: every caption that its owner may find, is still there and is not in the list comes after the
list's last place in order of scores and ids, even if the caption at that place is gone; and a list shorter than was
asked for holds everybody. So a list is joined with the new captions, and where k of what is joined come before that
last place, or the list held everybody, it is complete. Only the others, and new captions, meet all rows. A list with
places to spare, kept beside what is published, is complete even after it lost some of its captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtr

from bcls_core.errors import ShapeError
from bcls_core.similarity.incremental_lists import Lists, PlaceOf, among, cells_of, check_ascending
from bcls_core.similarity.measure import FloatArray, IntArray, RowSimilarity
from bcls_core.similarity.ranking import MAX_ROWS, ordered, restored
from bcls_core.similarity.split_rows import SplitRows

Search = Callable[[IntArray], tuple[FloatArray, IntArray]]
"""Places of rows to the scores and places of those nearest to each."""

_NOBODY = np.iinfo(np.int64).min
_LOW = np.int64(MAX_ROWS - 1)
_LISTS = 2**14  # joined at once
_FEWEST = 8  # new captions that each list is offered at first
_SAMPLE = 2**12  # lists, from which repairs are predicted


@dataclass(frozen=True)
class Update:
    """What was done for the lists of a panel.

    Attributes:
        kept: lists made of old ones and new captions.
        repaired: lists of captions that were kept, but which had to meet all rows.
        new: lists of captions that are new, have another row or have moved.
        removed: old lists whose caption is gone or not kept.
        products: pairs of a caption and a row that were compared, both directions of a pair counted.
        full_products: how many there are when all lists are computed anew.
    """

    kept: int
    repaired: int
    new: int
    removed: int
    products: int
    full_products: int


def update_neighbours(
    similarity: RowSimilarity[Any],
    split: SplitRows,
    k: int,
    old: Lists,
    kept: IntArray,
    *,
    panel: IntArray | None = None,
    spare: int = 0,
    search: Search | None = None,
) -> tuple[Lists, Update]:
    """The k most similar captions of other images for each caption, equal bit for bit to a search of all.

    Where that is less work, all captions of the panel are searched anew. Memory beyond arguments and result: the rows
    that are new; for each caption of the panel the places of its list; some 2^14 rows; and what a search of the
    captions that must meet all rows takes.

    Args:
        similarity: compares stored rows.
        split: the captions now.
        k: how many neighbours; may be another number than before, though a greater one mostly means a search of all.
        old: the lists before, at least those of each kept caption of the panel, of the same measure and version.
        kept: ascending ids of captions whose lists may be built upon (`kept_captions`).
        panel: ascending ids of captions whose lists are wanted, all if None; lists do not depend on it.
        spare: places beyond k that a list is given when it is searched anew, and loses and gains afterwards. How many
            it has depends on the lists before; the first k do not (`Lists.shortened`).
        search: `similarity.search_of(split.rows, k + spare, exclude=split.images)`, prepared by whoever updates
            several panels.
    Returns:
        The lists of the panel, and what was done for them.
    Raises:
        ShapeError: k is below 1 or spare below 0, ids do not ascend, a kept caption or one of the panel is not in the
            split, or a kept caption of the panel has no old list.
    """
    if k < 1 or spare < 0:
        raise ShapeError(f"found k={k} and spare={spare}; they must be at least 1 and 0.")
    if len(split) >= MAX_ROWS:
        raise ShapeError(f"found {len(split)} captions, fewer than {MAX_ROWS} can be ranked. Split them.")
    places = np.arange(len(split)) if panel is None else _places(split, panel, "panel")
    is_new = np.ones(len(split), dtype=np.bool_)
    is_new[_places(split, kept, "kept captions")] = False
    update = _Updating(similarity, split, k, k + spare, old, is_new, search)
    scores, found, repaired = update.lists(places)
    new = int(is_new[places].sum())
    done = Update(
        kept=len(places) - new - repaired,
        repaired=repaired,
        new=new,
        removed=int((~among(old.ids, kept)).sum()),
        products=update.products,
        full_products=len(places) * len(split),
    )
    return Lists.of(split.ids[places], scores, np.where(found >= 0, _at(split.ids, found), -1), k), done


class _Updating:
    """One update: finds places in the split, counts what it compares."""

    def __init__(
        self,
        similarity: RowSimilarity[Any],
        split: SplitRows,
        k: int,
        most: int,
        old: Lists,
        is_new: NDArray[np.bool_],
        search: Search | None,
    ) -> None:
        self._similarity, self._split, self._k, self._most, self._old = similarity, split, k, most, old
        self._prepared = search
        self._images = np.unique(np.asarray(split.images), return_inverse=True)[1].astype(np.int64)
        self._is_new, self._new = is_new, np.flatnonzero(is_new)
        self._place_of = PlaceOf(split.ids)
        self.products = 0

    @cached_property
    def _new_rows(self) -> Any:
        return self._split.rows[self._new]

    def lists(self, places: IntArray) -> tuple[FloatArray, IntArray, int]:
        """(places, most) scores and places of the split, -inf and -1 at the end; how many kept ones met all rows."""
        kept, new = places[~self._is_new[places]], places[self._is_new[places]]
        expected = len(new) + self._expected_repairs(kept)
        if self._is_more_than_all(len(kept) * len(self._new) + round(expected * len(self._split)), places):
            return *self._search(places), len(kept)
        shape = len(places), self._most
        scores, found = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        complete = np.zeros(len(places), dtype=np.bool_)
        where = np.flatnonzero(~self._is_new[places])
        for start in range(0, len(where), _LISTS):
            part = where[start : start + _LISTS]
            keys, complete[part] = self._joined(places[part])
            scores[part], found[part] = _scores(keys), _ids(keys)
        asked = np.flatnonzero(~complete)
        if self._is_more_than_all(len(asked) * len(self._split), places):
            return *self._search(places), len(kept)
        if len(asked):
            scores[asked], found[asked] = self._search(places[asked])
        return scores, found, len(asked) - len(new)

    def _expected_repairs(self, places: IntArray) -> float:
        """How many of these lists will lose more than they gain, if new captions fall into lists by chance."""
        if not len(places):
            return 0.0
        keys, last = self._old_keys(places[:: -(-len(places) // _SAMPLE)])
        lost = np.where(last == _NOBODY, 0, self._k - (keys != _NOBODY).sum(axis=1))
        gained = self._k * len(self._new) / len(self._split)
        return float(np.where(lost > 0, pdtr(np.maximum(lost, 1) - 1, gained), 0.0).mean()) * len(places)

    def _is_more_than_all(self, products: int, places: IntArray) -> bool:
        """Whether it takes longer than a search of all, in which one product may serve both rows."""
        all_at_once = len(places) == len(self._split)
        return products > len(places) * len(self._split) // (2 if all_at_once else 1)

    def _search(self, places: IntArray) -> tuple[FloatArray, IntArray]:
        self.products += len(places) * len(self._split)
        if self._prepared is None:
            self._prepared = self._similarity.search_of(self._split.rows, self._most, exclude=self._images)
        return self._prepared(places)

    def _joined(self, places: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
        """(places, most) best of the old lists' captions that were kept and of the new ones, as far as nobody can come
        between them; which lists are complete."""
        keys, last = self._old_keys(places)
        if len(self._new):
            keys = np.concatenate([keys, self._offered(places, last)], axis=1)
        keys = _wider(np.sort(keys, axis=1)[:, ::-1], self._most)[:, : self._most]
        keys = np.where(keys > last[:, None], keys, _NOBODY)
        return keys, (last == _NOBODY) | (keys[:, self._k - 1] != _NOBODY)

    def _old_keys(self, places: IntArray) -> tuple[IntArray, IntArray]:
        """What is left of old lists, (places, longest), and what all others that were kept come after, (places,).

        The latter lies just behind the last place of a full list, and is `_NOBODY` where the list held everybody.
        """
        ids, old = self._split.ids, self._old
        at = old.places(ids[places])
        lengths = old.lengths[at]
        cells = cells_of(old.starts, at)
        found = self._place_of(old.neighbours[cells])
        there = (found >= 0) & ~self._is_new[found]
        keys = np.full((len(places), lengths.max(initial=0)), _NOBODY, dtype=np.int64)
        keys[np.arange(keys.shape[1]) < lengths[:, None]] = np.where(there, _keys(old.scores[cells], found), _NOBODY)
        last = np.full(len(places), _NOBODY, dtype=np.int64)
        full = lengths >= old.k
        ends = old.starts[at[full] + 1] - 1
        last[full] = _keys(old.scores[ends], np.searchsorted(ids, old.neighbours[ends], side="right"))
        return keys, last

    def _offered(self, places: IntArray, last: IntArray) -> IntArray:
        """Of the new captions the best for each place: all that come before `last`, as far as they have places.

        A list has room for few, so few are asked for, and more only where the last of those is still good enough.
        """
        most = min(self._most, len(self._new))
        expected = -(-2 * self._most * len(self._new) // len(self._split))
        width = min(most, max(_FEWEST, expected))
        offered = self._search_new(places, width)
        while width < most:
            more = np.flatnonzero(offered[:, -1] > last)
            if not len(more):
                break
            width = min(4 * width, most)
            offered = _wider(offered, width)
            offered[more] = self._search_new(places[more], width)
        return offered

    def _search_new(self, places: IntArray, width: int) -> IntArray:
        self.products += len(places) * len(self._new)
        scores, found = self._similarity.top_k(
            self._new_rows,
            width,
            queries=self._split.rows[places],
            exclude=self._images[self._new],
            exclude_queries=self._images[places],
        )
        return np.where(found >= 0, _keys(scores, _at(self._new, found)), _NOBODY)


def _keys(scores: FloatArray, places: IntArray) -> IntArray:
    """Score and place as one integer: the higher, the earlier in a list."""
    keys: IntArray = (ordered(scores).astype(np.int64) << 32) | (_LOW - places)
    return keys


def _scores(keys: IntArray) -> FloatArray:
    return np.where(keys == _NOBODY, np.float32(-np.inf), restored((keys >> 32).astype(np.int32)))


def _ids(keys: IntArray) -> IntArray:
    ids: IntArray = np.where(keys == _NOBODY, -1, _LOW - (keys & _LOW))
    return ids


def _wider(keys: IntArray, width: int) -> IntArray:
    missing = max(0, width - keys.shape[1])
    return np.pad(keys, ((0, 0), (0, missing)), constant_values=_NOBODY)


def _at(values: IntArray, places: IntArray) -> IntArray:
    """Values at some places; anything where a place is -1."""
    return values[places] if len(values) else places


def _places(split: SplitRows, ids: IntArray, what: str) -> IntArray:
    check_ascending(ids, what)
    missing = ~among(ids, split.ids)
    if missing.any():
        raise ShapeError(
            f"{what}: {int(ids[int(np.argmax(missing))])} is not among the split's {len(split)} captions. "
            "Take ids of the corpus as it is now."
        )
    places: IntArray = np.searchsorted(split.ids, ids)
    return places
