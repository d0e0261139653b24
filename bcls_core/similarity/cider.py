"""CIDEr between captions (after Vedantam et al. 2015): the tf-idf cosine of 1- to 4-grams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from bcls_core.similarity.counted_rows import CountedRows, counted_rows
from bcls_core.similarity.document_frequencies import DocumentCounter, DocumentFrequencies
from bcls_core.similarity.measure import FloatArray, Groups, IntArray
from bcls_core.similarity.tfidf import SparseRows, TfidfSimilarity

CIDER_VERSION = 1
"""Raised by hand whenever tokens, weights or values change."""


class NgramMeasure(ABC):
    """A measure whose rows are made of n-grams and their document frequencies."""

    similarity: ClassVar[TfidfSimilarity]

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        self.frequencies = frequencies
        self._idf = frequencies.weights()

    @classmethod
    def fit(cls, captions: Sequence[str], image_ids: Iterable[Any]) -> Self:
        """The measure with the document frequencies of `captions`; `image_ids` names each caption's image.

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

    def represent(self, captions: Sequence[str]) -> Any:
        """Rows to be stored, one a caption, over the n-grams of the table.

        Raises:
            StoreError: a caption holds an n-gram without an id, so its row could not be compared with others later.
        """
        return self._stored(counted_rows(captions, self.frequencies, self._idf, known_only=True))

    def _rows(self, captions: Sequence[str]) -> Any:
        """Rows of any text; n-grams without an id have one within this call."""
        return self._stored(counted_rows(captions, self.frequencies, self._idf))

    @abstractmethod
    def _stored(self, rows: CountedRows) -> Any:
        """What this measure needs of the rows, as `similarity` takes it."""


class Cider(NgramMeasure):
    """CIDEr similarity of two captions: `1/4 sum_n cos(g_n(a), g_n(b))`, n = 1..4, a value in [0, 1].

    `g_n(c)` holds for each n-gram of `c` its count times `log(N) - log(max(1, df))`, where df of the N images counted
    have the n-gram in some caption. A caption too short for an n, or whose n-grams of that n are in every image,
    contributes 0 for it: two equal captions of two words score 0.5. The reference implementation reports ten times this
    value. Captions with n-grams that the table does not know are handled as the formula says (df = 0): what both
    captions share matches, everything counts in the norm. Its rows are CSR arrays.

    Example:
        >>> cider = Cider.fit(["a red bus", "a bus on the street", "two dogs"], ["1.jpg", "1.jpg", "2.jpg"])
        >>> cider.pairs(["a red bus"], ["a red bus stops"])
    """

    similarity = TfidfSimilarity()

    def _stored(self, rows: CountedRows) -> SparseRows:
        return rows.weights
