"""Stored representations addressed by caption id, kept on disk and mapped into memory.

A training process reads a few hundred rows a step out of millions: it maps them, so only pages that are touched take
memory, and the machine's processes share none of it with Python objects.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from bcls_core.errors import StoreError
from bcls_core.similarity.cosine import StoredRows
from bcls_core.similarity.measure import FloatArray, IntArray, Rows
from bcls_core.similarity.tfidf import SparseRows

EMBEDDINGS, TFIDF = "caption_embeddings", "caption_tfidf"
"""Tables of representations are named `caption_embeddings/MEASURE` or `caption_tfidf/MEASURE`."""


class RowBook(ABC, Generic[Rows]):
    """Representations by caption id."""

    def __init__(self, ids: IntArray) -> None:
        self._order: IntArray = np.argsort(ids, kind="stable")
        self._sorted: IntArray = ids[self._order]
        if len(ids) > 1 and (self._sorted[1:] == self._sorted[:-1]).any():
            twice = int(self._sorted[:-1][self._sorted[1:] == self._sorted[:-1]][0])
            raise StoreError(f"caption_id {twice} has two representations. Make the labels again.")

    @property
    def ids(self) -> IntArray:
        """(captions,) ascending caption ids."""
        return self._sorted

    def take(self, ids: IntArray) -> Rows:
        """The rows of these captions, in their order, repeats allowed.

        Raises:
            StoreError: a caption has no row.
        """
        places = np.searchsorted(self._sorted, ids)
        found = np.zeros(len(ids), dtype=np.bool_)
        inside = places < len(self._sorted)
        found[inside] = self._sorted[places[inside]] == ids[inside]
        if not found.all():
            missing = int(ids[int(np.argmin(found))])
            raise StoreError(
                f"caption_id {missing} has no representation among {len(self._sorted)} captions. "
                "Label the corpus and the split that are read."
            )
        return self._at(self._order[places])

    @abstractmethod
    def _at(self, places: IntArray) -> Rows: ...


class DenseBook(RowBook[StoredRows]):
    """fp16 rows of equal width."""

    def __init__(self, ids: IntArray, rows: StoredRows) -> None:
        super().__init__(ids)
        self._rows = rows

    def _at(self, places: IntArray) -> StoredRows:
        taken: StoredRows = self._rows[places]
        return taken


class SparseBook(RowBook[SparseRows]):
    """Sparse rows: `weights[starts[i]:starts[i + 1]]` belong to row i."""

    def __init__(self, ids: IntArray, starts: IntArray, ngrams: NDArray[np.int32], weights: FloatArray) -> None:
        super().__init__(ids)
        self._starts = starts
        self._ngrams = ngrams
        self._weights = weights
        self._width = int(ngrams.max()) + 1 if len(ngrams) else 1

    def _at(self, places: IntArray) -> SparseRows:
        lengths = self._starts[places + 1] - self._starts[places]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        cells = np.repeat(self._starts[places] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return sparse.csr_array((self._weights[cells], self._ngrams[cells], indptr), shape=(len(places), self._width))


def open_book(kind: str, tables: Iterable[pa.Table]) -> RowBook[Any]:
    """Copies representation tables, one at a time, into files without names and maps those.

    Args:
        kind: `EMBEDDINGS` or `TFIDF`.
        tables: parts of the table, with caption_id and embedding, or caption_id, ngrams and weights.
    """
    return _BUILDERS[kind](tables)


def _dense_book(tables: Iterable[pa.Table]) -> DenseBook:
    ids: list[IntArray] = []
    width = 1
    with _Columns("rows") as columns:
        for table in tables:
            column = table.column("embedding").combine_chunks()
            width = column.type.list_size
            columns.append("rows", column.flatten().to_numpy(zero_copy_only=False))
            ids.append(table.column("caption_id").to_numpy())
        return DenseBook(_joined(ids), columns.mapped("rows", np.float16).reshape(-1, width))


def _sparse_book(tables: Iterable[pa.Table]) -> SparseBook:
    ids: list[IntArray] = []
    lengths: list[IntArray] = []
    with _Columns("ngrams", "weights") as columns:
        for table in tables:
            ngrams = table.column("ngrams").combine_chunks()
            columns.append("ngrams", ngrams.flatten().to_numpy())
            columns.append("weights", table.column("weights").combine_chunks().flatten().to_numpy())
            lengths.append(np.diff(ngrams.offsets.to_numpy()).astype(np.int64))
            ids.append(table.column("caption_id").to_numpy())
        starts = np.concatenate([[0], np.cumsum(_joined(lengths))])
        cells = columns.mapped("ngrams", np.int32), columns.mapped("weights", np.float32)
        return SparseBook(_joined(ids), starts, *cells)


_BUILDERS: dict[str, Callable[[Iterable[pa.Table]], RowBook[Any]]] = {EMBEDDINGS: _dense_book, TFIDF: _sparse_book}


class _Columns:
    """Files that grow while parts are read. Mapped files stay readable after their names are gone, so nothing is left
    behind however the process ends."""

    def __init__(self, *names: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bcls-rows-")
        self._files = {name: (Path(self._folder.name) / name).open("wb") for name in names}

    def __enter__(self) -> _Columns:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._folder.cleanup()

    def append(self, name: str, values: NDArray[Any]) -> None:
        self._files[name].write(np.ascontiguousarray(values).data)

    def mapped(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        file = self._files[name]
        file.flush()
        if not file.tell():
            return np.empty(0, dtype=dtype)
        return np.memmap(file.name, dtype=dtype, mode="r")


def _joined(arrays: list[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
