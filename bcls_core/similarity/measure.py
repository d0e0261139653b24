"""What every caption-similarity measure offers: on captions, and on the rows it stores for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Groups = NDArray[Any] | Sequence[Any]

Found = tuple[FloatArray, IntArray]
"""(queries, k) scores, best first, and row numbers."""

Rows = TypeVar("Rows")
"""Representations of some captions, one row a caption: an fp16 array (dense) or a scipy CSR array (sparse)."""

RowsIn = TypeVar("RowsIn", contravariant=True)


class RowSimilarity(Protocol[RowsIn]):
    """Similarity of stored rows. Every form gives the same fp32 number for the same two rows, bit for bit."""

    def pairs(self, a: RowsIn, b: RowsIn) -> FloatArray:
        """(n,) similarities of row i of `a` with row i of `b`."""
        ...

    def matrix(self, a: RowsIn, b: RowsIn) -> FloatArray:
        """(len(a), len(b)) similarities."""
        ...

    def top_k(
        self,
        rows: RowsIn,
        k: int,
        *,
        queries: RowsIn | None = None,
        exclude: Groups | None = None,
        exclude_queries: Groups | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """The k most similar rows of each query, as `bcls_core.similarity.top_k` defines it."""
        ...

    def search_of(self, rows: RowsIn, k: int, *, exclude: Groups | None = None) -> Callable[[IntArray], Found]:
        """A search among `rows` that is prepared once and asked often: row numbers to what `top_k` finds for them.

        A row does not find itself, nor rows of its own group.
        """
        ...


class Measure(Protocol):
    """Similarity of captions given as text."""

    def pairs(self, a: Sequence[str], b: Sequence[str]) -> FloatArray:
        """(n,) similarities of caption i of `a` with caption i of `b`."""
        ...

    def matrix(self, a: Sequence[str], b: Sequence[str]) -> FloatArray:
        """(len(a), len(b)) similarities."""
        ...

    def top_k(self, captions: Sequence[str], k: int, *, exclude: Groups | None = None) -> tuple[FloatArray, IntArray]:
        """The k captions most similar to each caption, itself left out: (captions, k) scores and row numbers."""
        ...
