"""Ranks of positives, by counting what stands before them: no sort, no whole score matrix, both directions at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bcls_core.compiled import over_rows
from bcls_core.errors import ShapeError
from bcls_core.metrics.strips import Products, Scores, Strips, strips_of

Integers = NDArray[np.int64]

_STRIP_VALUES = 2**23  # of a strip of scores that are read or made
_TILE = (1024, 4096)  # images and captions of a product at once


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


def positive_ranks(
    scores: Scores, i2t: Positives, t2i: Positives, *, block: int | None = None
) -> tuple[Integers, Integers]:
    """Of every positive the number of entries before it in a stable descending sort of its query's gallery.

    An entry stands before another if its score is higher, or equal and its index lower. Exact for every dtype,
    infinities included. For `Products` a fast float32 product proposes what stands where, and the exact score of
    whatever its error could misplace decides, so that no blocking, library or number of threads changes a rank.

    Args:
        scores: (images, captions), a matrix or strips.
        i2t: captions that answer images.
        t2i: images that answer captions.
        block: queries at a time where strips are read; no rank depends on it.

    Returns:
        (pairs of i2t,) and (pairs of t2i,) int64, 0 for the best.

    Raises:
        ShapeError: the positives are not of this gallery, or a score is NaN (names row and column).
    """
    strips = strips_of("scores", scores)
    for name, positives, queries, gallery in (
        ("i2t", i2t, strips.images, strips.captions),
        ("t2i", t2i, strips.captions, strips.images),
    ):
        outside = len(positives.entries) and (positives.entries.min() < 0 or positives.entries.max() >= gallery)
        if positives.queries != queries or outside:
            raise ShapeError(
                f"{name} positives: {positives.queries} queries and entries up to "
                f"{max(positives.entries, default=-1)}, but the scores have {queries} queries and {gallery} entries."
            )
    if isinstance(strips, Products):
        return _in_products(strips, i2t, t2i)
    return _in_strips(strips, i2t, t2i, block)


def best_ranks(
    scores: Scores, i2t: Positives, t2i: Positives, *, block: int | None = None
) -> tuple[Integers, Integers]:
    """(images,) and (captions,) ranks of each query's best positive, as in `positive_ranks`; -1 for one without."""
    found = positive_ranks(scores, i2t, t2i, block=block)
    return best_of(i2t, found[0]), best_of(t2i, found[1])


def best_of(positives: Positives, ranks: Integers) -> Integers:
    """(queries,) lowest rank of each query's positives, -1 for a query without."""
    best = np.full(positives.queries, -1, np.int64)
    asked = np.diff(positives.starts) > 0
    if asked.any():
        best[asked] = np.minimum.reduceat(ranks, positives.starts[:-1][asked])
    return best


def _in_strips(strips: Strips, i2t: Positives, t2i: Positives, block: int | None) -> tuple[Integers, Integers]:
    from bcls_core.metrics.rank_kernels import count_in_rows  # loads a compiler: only for who needs it

    found = []
    for positives, read, gallery in (
        (i2t, strips.image_rows, strips.captions),
        (t2i, strips.caption_rows, strips.images),
    ):
        ranks = np.zeros(len(positives.entries), np.int64)
        length = block or max(1, _STRIP_VALUES // gallery)
        for start in range(0, positives.queries, length):
            strip = read(start, min(start + length, positives.queries))

            def count(part: slice) -> None:
                count_in_rows(strip[part], start + part.start, positives.starts, positives.entries, ranks)  # noqa: B023

            pairs = int(positives.starts[start + len(strip)] - positives.starts[start])
            over_rows(count, len(strip), steps=pairs * gallery)
        found.append(ranks)
    return found[0], found[1]


class _Direction:
    """One direction's positives with what decides their ranks: exact scores and how far a proposal may be off."""

    def __init__(self, products: Products, positives: Positives, *, transposed: bool) -> None:
        self._positives = positives
        query, entry = positives.query, positives.entries
        images, captions = (entry, query) if transposed else (query, entry)
        self._queries, self._gallery = products.image_encodings, products.caption_encodings
        norms, others = products.image_norms, products.caption_norms
        if transposed:
            self._queries, self._gallery, norms, others = self._gallery, self._queries, others, norms
        self._scores = products.pairs(images, captions)
        self.ranks = np.zeros(len(entry), np.int64)
        error = _proposal_error(products.dimensions, norms, float(others.max()))[query]
        self._low = np.nextafter((self._scores - error).astype(np.float32), np.float32(-np.inf))
        self._high = np.nextafter((self._scores + error).astype(np.float32), np.float32(np.inf))

    def add(self, proposals: NDArray[np.float32], first: int, first_entry: int) -> None:
        """Counts one tile of queries from `first` and entries from `first_entry`."""
        from bcls_core.metrics.rank_kernels import count_in_proposals

        starts = self._positives.starts
        pairs = int(starts[first + len(proposals)] - starts[first])
        if not pairs:
            return

        def count(part: slice) -> None:
            count_in_proposals(
                proposals[part],
                first + part.start,
                first_entry,
                starts,
                self._positives.entries,
                self._scores,
                self._low,
                self._high,
                self._queries,
                self._gallery,
                self.ranks,
            )

        over_rows(count, len(proposals), steps=4 * pairs * proposals.shape[1])


def _in_products(products: Products, i2t: Positives, t2i: Positives) -> tuple[Integers, Integers]:
    by_image, by_caption = _Direction(products, i2t, transposed=False), _Direction(products, t2i, transposed=True)
    images = np.ascontiguousarray(products.image_encodings, np.float32)
    captions = np.ascontiguousarray(products.caption_encodings, np.float32)
    for first in range(0, len(images), _TILE[0]):
        for first_caption in range(0, len(captions), _TILE[1]):
            tile = images[first : first + _TILE[0]] @ captions[first_caption : first_caption + _TILE[1]].T
            by_image.add(tile, first, first_caption)
            if len(t2i.entries):
                by_caption.add(np.ascontiguousarray(tile.T), first_caption, first)
    return by_image.ranks, by_caption.ranks


def _proposal_error(dimensions: int, norms: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    """(queries,) bound of |proposal - score|.

    With u = 2^-24: values are rounded to float32 once on either side, a float32 inner product of d terms, in any order,
    errs by at most d u / (1 - d u) times the product of the norms (Higham 2002, section 3.1), and a score is rounded
    once more; (d + 8) u covers these and float64's own errors. What is too small for float32 may be lost altogether.
    """
    terms = (dimensions + 8) * 2.0**-24
    lost = dimensions * 2.0**-125 * (1 + norms + longest)
    return terms / (1 - terms) * norms * longest + lost
