"""CIDEr-D between captions (Vedantam et al. 2015, section 6): CIDEr that repeated words and odd lengths cannot raise.

A row is CIDEr's with the n-grams' counts and the caption's length beside it. Clipping is
`min(x_g, y_g) = min(1, count_b / count_a) x_g` before the norms are divided out, so the candidate's unit weight shrinks
to the share of its occurrences that the reference has too. Shares are rounded to the grid of the weights, 2^-24, hence
sums of products stay exact in float64, in any order, as `tfidf.py` has it.
"""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bcls_core.similarity.cider import NgramMeasure
from bcls_core.similarity.counted_rows import CountedRows
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.tfidf import WEIGHT_GRID, SparseRows, TfidfSimilarity

CIDER_D_VERSION = 1
"""Raised by hand whenever tokens, weights or values change."""

SIGMA = 6
"""Tokens: the width of the penalty for unequal lengths."""

_FARTHEST = 87  # exp(-87^2 / 72) is below half of the least fp32 number


def _penalties() -> NDArray[np.float64]:
    """(`_FARTHEST` + 1,) the float64 number nearest to `exp(-d^2 / (2 SIGMA^2))`, d = 0, 1, ...; 0 at the end.

    In decimals, since the processor's exp may differ in the last bit between machines.
    """
    context = Context(prec=60)
    exact = [context.exp(context.divide(Decimal(-d * d), Decimal(2 * SIGMA**2))) for d in range(_FARTHEST)]
    return np.array([*map(float, exact), 0.0])


class ClippedSimilarity(TfidfSimilarity):
    """CIDEr-D of `CountedRows`; `a`, or the query, is the candidate, `b`, or the row searched, the reference."""

    penalties = _penalties()

    def operands(self, a: CountedRows, b: CountedRows) -> tuple[SparseRows, SparseRows]:
        """Rows whose plain products are clipped ones: one column for each n-gram's 1st, 2nd, ... occurrence.

        An n-gram found c times with weight x has the shares `s_m = rint(x m / c)`, on the grid, of its first m
        occurrences. The candidate has `s_m - s_(m-1)` at its m-th, the reference its whole weight at each it has: the
        product is `s_min(count_a, count_b)` times the reference's weight.
        """
        width = max(a.shape[1], b.shape[1])
        most = int(min(a.counts.data.max(initial=1), b.counts.data.max(initial=1)))
        left, right = _Repeats(a, most, width), _Repeats(b, most, width)
        extra = np.unique(np.concatenate([left.later, right.later]))
        return left.rows(left.shares(), extra), right.rows(right.weights(), extra)

    def lengths(self, rows: CountedRows) -> IntArray:
        """(rows,) tokens of each caption."""
        return np.asarray(rows.lengths, dtype=np.int64)


class _Repeats:
    """The cells of some rows, and beside them one for each further occurrence of an n-gram, `most` in all at most."""

    def __init__(self, rows: CountedRows, most: int, width: int) -> None:
        self._rows, self._width = rows, width
        times = np.minimum(rows.counts.data, most)
        several = np.flatnonzero(times > 1)
        self._cell = np.repeat(several, times[several] - 1)  # the cell that each further occurrence repeats
        ends = np.cumsum(times[several] - 1)
        self._earlier = np.arange(1, len(self._cell) + 1) - np.repeat(ends - (times[several] - 1), times[several] - 1)
        self._keys: IntArray = (self._earlier - 1) * width + rows.counts.indices[self._cell]

    @property
    def later(self) -> IntArray:
        """Keys of the n-grams' second and further occurrences."""
        return self._keys

    def weights(self) -> tuple[FloatArray, FloatArray]:
        """The whole weight at the first and at each further occurrence."""
        return self._rows.weights.data, self._rows.weights.data[self._cell]

    def shares(self) -> tuple[FloatArray, FloatArray]:
        """What the first and each further occurrence adds to the share of those up to it."""
        weights, counts = self._rows.weights.data, self._rows.counts.data
        again, of_again = weights[self._cell], counts[self._cell]
        added = _share(again, self._earlier + 1, of_again) - _share(again, self._earlier, of_again)
        return _share(weights, np.ones(1, dtype=np.int64), counts), added

    def rows(self, weights: tuple[FloatArray, FloatArray], extra: IntArray) -> SparseRows:
        """CSR rows, unsorted: the n-grams' columns, and one for each of the keys `extra`."""
        first, further = weights
        columns = self._width + np.searchsorted(extra, self._keys)
        starts = self._rows.counts.indptr
        indptr = starts + np.searchsorted(self._cell, starts)
        after = self._cell + 1
        cells = np.insert(first, after, further), np.insert(self._rows.counts.indices, after, columns)
        return sparse.csr_array((*cells, indptr), shape=(len(self._rows), self._width + len(extra)))


def _share(weights: FloatArray, occurrences: IntArray, counts: NDArray[np.int32]) -> FloatArray:
    """The weight of some of an n-gram's occurrences, on the grid."""
    share: FloatArray = (np.rint(weights * (occurrences * WEIGHT_GRID) / counts) / WEIGHT_GRID).astype(np.float32)
    return share


class CiderD(NgramMeasure):
    """CIDEr-D of a candidate `a` and one reference `b`, a value in [0, 1]; not symmetric.

    `1/4 exp(-(l(a) - l(b))^2 / (2 6^2)) sum_n min(g_n(a), g_n(b)) . g_n(b) / (|g_n(a)| |g_n(b)|)`, n = 1..4, with
    `g_n` as in `Cider`, l the number of tokens and the minimum taken for each n-gram. The reference implementation
    reports ten times this value. In `pairs` and `matrix` the first captions are candidates; `top_k` asks with each
    caption as the candidate. Its rows are `CountedRows`.

    Example:
        >>> cider_d = CiderD.fit(["a red bus", "a bus on the street", "two dogs"], ["1.jpg", "1.jpg", "2.jpg"])
        >>> cider_d.pairs(["a red bus"], ["a red bus stops"])
    """

    similarity = ClippedSimilarity()

    def _stored(self, rows: CountedRows) -> CountedRows:
        return rows
