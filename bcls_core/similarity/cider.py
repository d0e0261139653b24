"""CIDEr between captions (after Vedantam et al. 2015): the tf-idf cosine of 1- to 4-grams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from bcls_core.errors import StoreError
from bcls_core.similarity.document_frequencies import DocumentCounter, DocumentFrequencies
from bcls_core.similarity.measure import FloatArray, Groups, IntArray
from bcls_core.similarity.tfidf import SparseRows, TfidfSimilarity
from bcls_core.similarity.tokens import LONGEST_NGRAM, ngrams, order_of, tokenize

CIDER_VERSION = 1
"""Raised by hand whenever tokens, weights or values change."""

_WEIGHT_GRID = 2.0**24


class Cider:
    """CIDEr similarity of two captions: `1/4 sum_n cos(g_n(a), g_n(b))`, n = 1..4, a value in [0, 1].

    `g_n(c)` holds for each n-gram of `c` its count times `log(N) - log(max(1, df))`, where df of the N images counted
    have the n-gram in some caption. A caption too short for an n, or whose n-grams of that n are in every image,
    contributes 0 for it: two equal captions of two words score 0.5. The reference implementation reports ten times this
    value. Captions with n-grams that the table does not know are handled as the formula says (df = 0): what both
    captions share matches, everything counts in the norm.

    Example:
        >>> cider = Cider.fit(["a red bus", "a bus on the street", "two dogs"], ["1.jpg", "1.jpg", "2.jpg"])
        >>> cider.pairs(["a red bus"], ["a red bus stops"])
    """

    similarity = TfidfSimilarity()

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        self.frequencies = frequencies
        self._idf = frequencies.weights()

    @classmethod
    def fit(cls, captions: Sequence[str], image_ids: Iterable[Any]) -> Cider:
        """CIDEr with the document frequencies of `captions`; `image_ids` names each caption's image.

        Raises:
            ShapeError: there is no caption.
        """
        counter = DocumentCounter()
        counter.add(captions, image_ids)
        return cls(counter.frequencies())

    def pairs(self, a: Sequence[str], b: Sequence[str]) -> FloatArray:
        """(n,) values of caption i of `a` with caption i of `b`."""
        rows = self._rows([*a, *b])
        return self.similarity.pairs(rows[: len(a)], rows[len(a) :])

    def matrix(self, a: Sequence[str], b: Sequence[str]) -> FloatArray:
        """(len(a), len(b)) values."""
        rows = self._rows([*a, *b])
        return self.similarity.matrix(rows[: len(a)], rows[len(a) :])

    def top_k(self, captions: Sequence[str], k: int, *, exclude: Groups | None = None) -> tuple[FloatArray, IntArray]:
        """The k captions most similar to each, itself (and its group of `exclude`) left out; as `top_k` of rows."""
        return self.similarity.top_k(self._rows(captions), k, exclude=exclude)

    def represent(self, captions: Sequence[str]) -> SparseRows:
        """Rows to be stored: CSR (captions, n-grams of the table).

        Raises:
            StoreError: a caption holds an n-gram without an id, so its row could not be compared with others later.
        """
        return self._rows(captions, known_only=True)

    def _rows(self, captions: Sequence[str], *, known_only: bool = False) -> SparseRows:
        """Rows of any text; n-grams without an id get the ids after the table's, consistent within this call."""
        known, size = self.frequencies.ids, len(self._idf)
        strangers: dict[str, int] = {}
        ids: list[int] = []
        orders: list[int] = []
        lengths = np.zeros(len(captions), dtype=np.int64)
        for row, caption in enumerate(captions):
            found = ngrams(tokenize(caption))
            lengths[row] = len(found)
            orders.extend(map(order_of, found))
            for ngram in found:
                number = known.get(ngram)
                if number is None:
                    number = strangers.setdefault(ngram, size + len(strangers))
                ids.append(number)
            if known_only and strangers:
                raise StoreError(
                    f"caption {caption!r} holds {next(iter(strangers))!r}, which the document frequencies do not know. "
                    "Fit them on the whole corpus that is represented."
                )
        idf = np.concatenate([self._idf, np.full(len(strangers), self.frequencies.weight_of_unknown)])
        row_of = np.repeat(np.arange(len(captions), dtype=np.int64), lengths)
        return _unit_rows(row_of, np.array(ids, dtype=np.int64), np.array(orders, dtype=np.int64), idf, len(captions))


def _unit_rows(row_of: IntArray, ids: IntArray, orders: IntArray, idf: Any, captions: int) -> SparseRows:
    """CSR rows from the list of all n-gram occurrences, in the order of the captions."""
    width = len(idf)
    cells, first, counts = np.unique(row_of * width + ids, return_index=True, return_counts=True)
    weights = counts * idf[ids[first]]
    # Norms are summed in the order of the caption's text, so that no weight depends on which ids strangers got.
    reading = np.argsort(first)
    segment = row_of[first] * (LONGEST_NGRAM + 1) + orders[first]
    squares = np.bincount(segment[reading], weights=weights[reading] ** 2, minlength=captions * (LONGEST_NGRAM + 1))
    norms = np.sqrt(squares)[segment]
    unit = np.divide(weights, norms, out=np.zeros_like(weights), where=norms > 0)
    rounded = (np.rint(unit * _WEIGHT_GRID) / _WEIGHT_GRID).astype(np.float32)
    kept = rounded > 0
    rows, columns = np.divmod(cells[kept], width)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=captions))])
    return sparse.csr_array((rounded[kept], columns.astype(np.int32), indptr), shape=(captions, width))
