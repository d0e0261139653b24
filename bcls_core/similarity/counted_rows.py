"""Captions as rows of tf-idf weights, with the counts and lengths behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bcls_core.errors import StoreError
from bcls_core.similarity.document_frequencies import DocumentFrequencies
from bcls_core.similarity.measure import IntArray
from bcls_core.similarity.tfidf import WEIGHT_GRID, SparseRows
from bcls_core.similarity.tokens import LONGEST_NGRAM, NgramOccurrences, ngrams


@dataclass(frozen=True)
class CountedRows:
    """Tf-idf rows that know how often each n-gram occurs and how long the caption is.

    Attributes:
        weights: CSR (captions, n-grams), float32: the rows of CIDEr, for every n a unit vector on a grid of 2^-24.
        counts: CSR of the same cells in the same order, int32: how often the caption holds the n-gram.
        lengths: (captions,) int32 tokens.
    """

    weights: SparseRows
    counts: SparseRows
    lengths: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, int]:
        """(captions, n-grams)."""
        rows, columns = self.weights.shape
        return rows, columns

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Any) -> CountedRows:
        """Some rows: a slice, or an array of row numbers."""
        return CountedRows(self.weights[rows], self.counts[rows], self.lengths[rows])


def counted_rows(
    captions: Sequence[str], frequencies: DocumentFrequencies, idf: NDArray[np.float64], *, known_only: bool = False
) -> CountedRows:
    """Rows of any text; n-grams without an id get the ids after the table's, consistent within this call.

    Args:
        captions: any text.
        frequencies: the ids of n-grams.
        idf: (n-grams,) `frequencies.weights()`.
        known_only: refuse text with n-grams that have no id.
    Raises:
        StoreError: `known_only`, and a caption holds an n-gram without an id.
    """
    found, known = ngrams(captions), frequencies.ids
    ids = np.array([known.get(name, -1) for name in found.names], dtype=np.int64)
    strange = ids < 0
    if known_only and strange.any():
        raise _stranger(captions, found, strange)
    ids[strange] = len(idf) + np.arange(np.count_nonzero(strange))
    of_any = np.concatenate([idf, np.full(np.count_nonzero(strange), frequencies.weight_of_unknown)])
    return _rows(found, ids, of_any)


def _stranger(captions: Sequence[str], found: NgramOccurrences, strange: NDArray[np.bool_]) -> StoreError:
    place = int(np.argmax(strange[found.numbers]))
    caption, name = captions[found.captions[place]], found.names[found.numbers[place]]
    return StoreError(
        f"caption {caption!r} holds {name!r}, which the document frequencies do not know. "
        "Fit them on the whole corpus that is represented."
    )


def _rows(found: NgramOccurrences, ids: IntArray, idf: NDArray[np.float64]) -> CountedRows:
    width, captions = len(idf), len(found.lengths)
    keys = found.captions * width + ids[found.numbers]
    cells, first, counts = np.unique(keys, return_index=True, return_counts=True)
    rows, columns = np.divmod(cells, width)
    weights = counts * idf[columns]
    # Norms are summed in the order of the caption's text, so that no weight depends on which ids strangers got.
    reading = np.argsort(first)
    segment = rows * (LONGEST_NGRAM + 1) + found.orders[found.numbers[first]]
    squares = np.bincount(segment[reading], weights=weights[reading] ** 2, minlength=captions * (LONGEST_NGRAM + 1))
    norms = np.sqrt(squares)[segment]
    unit = np.divide(weights, norms, out=np.zeros_like(weights), where=norms > 0)
    rounded = (np.rint(unit * WEIGHT_GRID) / WEIGHT_GRID).astype(np.float32)
    kept = rounded > 0
    columns = columns[kept].astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=captions))])
    shape = (captions, width)
    return CountedRows(
        sparse.csr_array((rounded[kept], columns, indptr), shape=shape),
        sparse.csr_array((counts[kept].astype(np.int32), columns, indptr), shape=shape),
        found.lengths.astype(np.int32),
    )
