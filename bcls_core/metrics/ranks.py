"""Ranks of positives, by counting what stands before them: no sort, no whole score matrix, both directions at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bcls_core.compiled import over_rows
from bcls_core.errors import ShapeError
from bcls_core.metrics.strips import Products, Scores, Strip, comparable, strips_of

Integers = NDArray[np.int64]

_STRIP_VALUES = 2**23  # of a strip of scores that are read or made
_TILE = (512, 2000)  # images and captions of a product at once; no power of two, for it is transposed


@dataclass(frozen=True)
class Positives:
    """Which entries of the gallery answer which query, grouped by query.

    Attributes:
        starts: (queries + 1,) int64; the positives of query q are `entries[starts[q]:starts[q + 1]]`.
        entries: (pairs,) int64, ascending within a query, each once.
    """

    starts: Integers
    entries: Integers

    @classmethod
    def of(cls, query: ArrayLike, entry: ArrayLike, queries: int) -> Positives:
        """From (pairs,) queries and entries in any order; a pair given twice counts once.

        Raises:
            ShapeError: not as many of the one as of the other, or a query that is not in [0, queries).
        """
        asked, answers = np.asarray(query, np.int64), np.asarray(entry, np.int64)
        if asked.shape != answers.shape or asked.ndim != 1:
            raise ShapeError(f"positives: {asked.shape} queries and {answers.shape} entries, expected pairs.")
        if len(asked) and (asked.min() < 0 or asked.max() >= queries):
            raise ShapeError(f"positives: query {asked[(asked < 0) | (asked >= queries)][0]} of {queries}.")
        order = np.lexsort((answers, asked))
        asked, answers = asked[order], answers[order]
        new = np.ones(len(asked), bool)
        new[1:] = (asked[1:] != asked[:-1]) | (answers[1:] != answers[:-1])
        starts = np.concatenate([[0], np.cumsum(np.bincount(asked[new], minlength=queries))])
        return cls(starts.astype(np.int64), answers[new])

    @property
    def queries(self) -> int:
        return len(self.starts) - 1

    @property
    def query(self) -> Integers:
        """(pairs,) the query of each pair."""
        return np.repeat(np.arange(self.queries), np.diff(self.starts))


def positives_of_captions(caption_image: ArrayLike, images: int) -> tuple[Positives, Positives]:
    """An image is answered by its own captions, a caption by its image: both directions."""
    rows = np.asarray(caption_image, np.int64)
    captions = np.arange(len(rows))
    return Positives.of(rows, captions, images), Positives.of(captions, rows, len(rows))


@dataclass(frozen=True, eq=False)
class Asked:
    """Positives of one direction whose ranks are asked for.

    Attributes:
        positives: of all queries.
        query_part, entry_part: (queries,) and (gallery,) int32, the part of the gallery that each query asks and each
            entry is in: entries of other parts are not there for it. Positives are in their query's part. None where
            every query asks the whole gallery.
        best: only the best positive of each query.
    """

    positives: Positives
    query_part: NDArray[np.int32] | None = None
    entry_part: NDArray[np.int32] | None = None
    best: bool = False

    @property
    def parts(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Both, empty where there are none."""
        if self.query_part is None or self.entry_part is None:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        return self.query_part, self.entry_part

    def answer(self, positives: Positives, ranks: Integers) -> Integers:
        """Ranks as they were asked for, from those of `positives`: all of them, or at least the best."""
        return best_of(positives, ranks) if self.best else ranks


def positive_ranks(
    scores: Scores, i2t: Positives, t2i: Positives, *, block: int | None = None
) -> tuple[Integers, Integers]:
    """Of every positive the number of entries before it in a stable descending sort of its query's gallery.

    Returns:
        (pairs of i2t,) and (pairs of t2i,) int64, 0 for the best. All else as `ranks_of`.
    """
    (by_image,), (by_caption,) = ranks_of(scores, [Asked(i2t)], [Asked(t2i)], block=block)
    return by_image, by_caption


def best_ranks(
    scores: Scores, i2t: Positives, t2i: Positives, *, block: int | None = None
) -> tuple[Integers, Integers]:
    """(images,) and (captions,) ranks of each query's best positive, as in `positive_ranks`; -1 for one without."""
    (by_image,), (by_caption,) = ranks_of(scores, [Asked(i2t, best=True)], [Asked(t2i, best=True)], block=block)
    return by_image, by_caption


def ranks_of(
    scores: Scores, i2t: Sequence[Asked], t2i: Sequence[Asked], *, block: int | None = None
) -> tuple[list[Integers], list[Integers]]:
    """Ranks of several sets of positives; every score is made once for all of them.

    An entry stands before another if its score is higher, or equal and its index lower. Exact for every dtype,
    infinities included. For `Products` a fast float32 product proposes what stands where, and the exact score of
    whatever its error could misplace decides, so that no blocking, library or number of threads changes a rank.

    Args:
        scores: (images, captions), a matrix or strips.
        i2t: captions that answer images.
        t2i: images that answer captions.
        block: queries at a time where strips are read; no rank depends on it.

    Returns:
        For each of `i2t` and of `t2i` (pairs,) int64 from 0, or where the best are asked for (queries,), -1 for a query
        without a positive.

    Raises:
        ShapeError: the positives are not of this gallery, or a score is NaN (names row and column).
    """
    strips = strips_of("scores", scores)
    for name, asked, queries, gallery in (
        ("i2t", i2t, strips.images, strips.captions),
        ("t2i", t2i, strips.captions, strips.images),
    ):
        for each in asked:
            _check(name, each.positives, queries, gallery)
    if isinstance(strips, Products):
        return _in_products(strips, i2t, t2i)
    return (
        _in_strips(strips.image_rows, strips.captions, i2t, block),
        _in_strips(strips.caption_rows, strips.images, t2i, block),
    )


def best_of(positives: Positives, ranks: Integers) -> Integers:
    """(queries,) lowest rank of each query's positives, -1 for a query without."""
    best = np.full(positives.queries, -1, np.int64)
    asked = np.diff(positives.starts) > 0
    if asked.any():
        best[asked] = np.minimum.reduceat(ranks, positives.starts[:-1][asked])
    return best


def _check(name: str, positives: Positives, queries: int, gallery: int) -> None:
    outside = len(positives.entries) and (positives.entries.min() < 0 or positives.entries.max() >= gallery)
    if positives.queries != queries or outside:
        raise ShapeError(
            f"{name} positives: {positives.queries} queries and entries up to {max(positives.entries, default=-1)}, "
            f"but the scores have {queries} queries and {gallery} entries."
        )


def _in_strips(
    read: Callable[[int, int], Strip], gallery: int, asked: Sequence[Asked], block: int | None
) -> list[Integers]:
    from bcls_core.metrics.rank_kernels import count_in_rows  # loads a compiler: only for who needs it

    if not asked:
        return []
    found = [np.zeros(len(each.positives.entries), np.int64) for each in asked]
    queries = asked[0].positives.queries
    length = block or max(1, _STRIP_VALUES // gallery)
    for start in range(0, queries, length):
        strip = comparable("scores", read(start, min(start + length, queries)), start)
        for each, ranks in zip(asked, found, strict=True):
            starts, entries = each.positives.starts, each.positives.entries
            count = partial(_count_part, count_in_rows, strip, start, (starts, entries, *each.parts, ranks))
            over_rows(count, len(strip), steps=int(starts[start + len(strip)] - starts[start]) * gallery)
    return [each.answer(each.positives, ranks) for each, ranks in zip(asked, found, strict=True)]


def _count_part(kernel: Callable[..., None], strip: Strip, start: int, arguments: tuple[Any, ...], part: slice) -> None:
    kernel(strip[part], start + part.start, *arguments)


class _Direction:
    """One direction's positives with what decides their ranks: exact scores and how far a proposal may be off."""

    def __init__(self, products: Products, asked: Asked, scales: tuple[float, float], *, transposed: bool) -> None:
        self._queries, self._gallery = products.image_encodings, products.caption_encodings
        norms, others = products.image_norms * scales[0], products.caption_norms * scales[1]
        if transposed:
            self._queries, self._gallery, norms, others = self._gallery, self._queries, others, norms
        self._asked = asked
        positives = asked.positives
        query, entry = positives.query, positives.entries
        scores = products.pairs(entry, query) if transposed else products.pairs(query, entry)
        if asked.best:
            first = _first_of_best(positives, query, scores)
            scores, query = scores[first], query[first]
            positives = Positives(np.searchsorted(query, np.arange(positives.queries + 1)), entry[first])
        self._positives, self._scores = positives, scores
        self._ranks = np.zeros(len(query), np.int64)
        scale = scales[0] * scales[1]
        error = _proposal_error(products.dimensions, norms, float(others.max()), scale)[query]
        proposed = scores.astype(np.float64) * scale
        self._low = np.nextafter((proposed - error).astype(np.float32), np.float32(-np.inf))
        self._high = np.nextafter((proposed + error).astype(np.float32), np.float32(np.inf))

    def add(self, proposals: NDArray[np.float32], first: int, first_entry: int) -> None:
        """Counts one tile of queries from `first` and entries from `first_entry`."""
        from bcls_core.metrics.rank_kernels import count_in_proposals

        if self.pairs(first, len(proposals)):
            positives = (self._positives.starts, self._positives.entries, self._scores, self._low, self._high)
            encodings = (self._queries, self._gallery)
            count_in_proposals(proposals, first, first_entry, *positives, *encodings, *self._asked.parts, self._ranks)

    def pairs(self, first: int, queries: int) -> int:
        """Number of positives that some queries have."""
        return int(self._positives.starts[first + queries] - self._positives.starts[first])

    def answer(self) -> Integers:
        """Once every tile was added."""
        return self._asked.answer(self._positives, self._ranks)


def _first_of_best(positives: Positives, query: Integers, scores: NDArray[np.float32]) -> Integers:
    """(asked,) the pair of each query's best positive: the highest score, of equals the first."""
    order = np.lexsort((positives.entries, -scores, query))
    _, first = np.unique(query, return_index=True)
    return order[first]


def _in_products(
    products: Products, i2t: Sequence[Asked], t2i: Sequence[Asked]
) -> tuple[list[Integers], list[Integers]]:
    scales = _scale(products.image_norms), _scale(products.caption_norms)
    by_image = [_Direction(products, asked, scales, transposed=False) for asked in i2t]
    by_caption = [_Direction(products, asked, scales, transposed=True) for asked in t2i]
    images, captions = (
        np.ascontiguousarray(encodings if scale == 1 else encodings * scale, np.float32)
        for encodings, scale in zip((products.image_encodings, products.caption_encodings), scales, strict=True)
    )
    for first in range(0, len(images), _TILE[0]):
        for first_caption in range(0, len(captions), _TILE[1]):
            tile = images[first : first + _TILE[0]] @ captions[first_caption : first_caption + _TILE[1]].T
            _add(by_image, tile, first, first_caption)
            if by_caption:
                _add(by_caption, np.ascontiguousarray(tile.T), first_caption, first)
    return [direction.answer() for direction in by_image], [direction.answer() for direction in by_caption]


def _add(directions: Sequence[_Direction], tile: NDArray[np.float32], first: int, first_entry: int) -> None:
    def count(part: slice) -> None:
        for direction in directions:
            direction.add(tile[part], first + part.start, first_entry)

    pairs = sum(direction.pairs(first, len(tile)) for direction in directions)
    over_rows(count, len(tile), steps=4 * pairs * tile.shape[1], most=len(tile))


def _scale(norms: NDArray[np.float64]) -> float:
    """A power of two that brings encodings into float32's range, where they are not well inside it."""
    exponent = int(np.frexp(norms.max())[1])
    return 1.0 if abs(exponent) < 30 else 2.0**-exponent


def _proposal_error(dimensions: int, norms: NDArray[np.float64], longest: float, scale: float) -> NDArray[np.float64]:
    """(queries,) bound of |proposal - score|, both times `scale`, as the norms are.

    With u = 2^-24: values are rounded to float32 once on either side, a float32 inner product of d terms, in any order,
    errs by at most d u / (1 - d u) times the product of the norms (Higham 2002, section 3.1), and a score is rounded
    once more; (d + 8) u covers these and float64's own errors. What is too small for float32 may be lost altogether.
    """
    terms = (dimensions + 8) * 2.0**-24
    lost = dimensions * 2.0**-125 * (1 + norms + longest) + 2.0**-149 * scale
    return terms / (1 - terms) * norms * longest + lost
