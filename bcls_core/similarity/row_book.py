"""Stored representations addressed by caption id, kept on disk and mapped into memory.

A training process reads a few hundred rows a step out of millions: it maps them, so only pages that are touched take
memory, and the machine's processes share none of it with Python objects.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from bcls_core.errors import StoreError
from bcls_core.similarity.cosine import StoredRows
from bcls_core.similarity.counted_rows import CountedRows
from bcls_core.similarity.measure import FloatArray, IntArray, Rows
from bcls_core.similarity.tfidf import SparseRows

EMBEDDINGS, TFIDF, COUNTED_TFIDF = "caption_embeddings", "caption_tfidf", "caption_counted_tfidf"
"""Tables of representations are named by what a row is and by the measure, such as `caption_tfidf/MEASURE`."""


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
        indptr, cells = _cells_of(self._starts, places)
        return sparse.csr_array((self._weights[cells], self._ngrams[cells], indptr), shape=(len(places), self._width))


class CountedBook(RowBook[CountedRows]):
    """Sparse rows with counts and lengths: `weights` and `counts` `[starts[i]:starts[i + 1]]` belong to row i."""

    def __init__(
        self,
        ids: IntArray,
        starts: IntArray,
        ngrams: NDArray[np.int32],
        weights: FloatArray,
        counts: NDArray[np.int32],
        lengths: NDArray[np.int32],
    ) -> None:
        super().__init__(ids)
        self._starts = starts
        self._ngrams = ngrams
        self._weights = weights
        self._counts = counts
        self._lengths = lengths
        self._width = int(ngrams.max()) + 1 if len(ngrams) else 1

    def _at(self, places: IntArray) -> CountedRows:
        indptr, cells = _cells_of(self._starts, places)
        ngrams, shape = self._ngrams[cells], (len(places), self._width)
        weights = sparse.csr_array((self._weights[cells], ngrams, indptr), shape=shape)
        counts = sparse.csr_array((self._counts[cells], ngrams, indptr), shape=shape)
        return CountedRows(weights, counts, self._lengths[places])


def _cells_of(starts: IntArray, places: IntArray) -> tuple[IntArray, IntArray]:
    """Where the cells of each of some rows end, and which cells they are."""
    lengths = starts[places + 1] - starts[places]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return indptr, np.repeat(starts[places] - indptr[:-1], lengths) + np.arange(indptr[-1])


def open_book(kind: str, tables: Iterable[pa.Table]) -> RowBook[Any]:
    """Copies representation tables, one at a time, into files without names and maps those.

    Args:
        kind: `EMBEDDINGS`, `TFIDF` or `COUNTED_TFIDF`.
        tables: parts of the table, with the columns that `label_tables` gives it; others are passed over.
    """
    return _BUILDERS[kind](tables)


def _dense_book(tables: Iterable[pa.Table]) -> DenseBook:
    ids: list[IntArray] = []

    def read() -> Iterator[pa.Table]:
        for table in tables:
            ids.append(table.column("caption_id").to_numpy())
            yield table

    rows = dense_rows(read())
    return DenseBook(_joined(ids), rows)


def dense_rows(tables: Iterable[pa.Table]) -> StoredRows:
    """The column `embedding` of some tables, copied into a file without a name, one table at a time, and mapped."""
    width = 1
    with MappedColumns("rows") as columns:
        for table in tables:
            column = table.column("embedding").combine_chunks()
            width = column.type.list_size
            columns.append("rows", column.flatten().to_numpy(zero_copy_only=False))
        return columns.mapped("rows", np.float16).reshape(-1, width)


def _sparse_book(tables: Iterable[pa.Table]) -> SparseBook:
    with MappedColumns("ngrams", "weights") as columns:
        ids, starts = _read_cells(tables, columns)
        return SparseBook(ids, starts, columns.mapped("ngrams", np.int32), columns.mapped("weights", np.float32))


def _counted_book(tables: Iterable[pa.Table]) -> CountedBook:
    tokens: list[NDArray[np.int32]] = []

    def read() -> Iterator[pa.Table]:
        for table in tables:
            tokens.append(table.column("length").to_numpy())
            yield table

    with MappedColumns("ngrams", "weights", "counts") as columns:
        ids, starts = _read_cells(read(), columns)
        cells = columns.mapped("ngrams", np.int32), columns.mapped("weights", np.float32)
        lengths = np.concatenate([*tokens, np.empty(0, dtype=np.int32)])
        return CountedBook(ids, starts, *cells, columns.mapped("counts", np.int32), lengths)


def _read_cells(tables: Iterable[pa.Table], columns: MappedColumns) -> tuple[IntArray, IntArray]:
    """Ids of the rows and where their cells begin, which are written to files, a file a column."""
    ids: list[IntArray] = []
    lengths: list[IntArray] = []
    for table in tables:
        for name in columns.names:
            cells = table.column(name).combine_chunks()
            columns.append(name, cells.flatten().to_numpy())
        lengths.append(np.diff(cells.offsets.to_numpy()).astype(np.int64))
        ids.append(table.column("caption_id").to_numpy())
    return _joined(ids), np.concatenate([[0], np.cumsum(_joined(lengths))])


_BUILDERS: dict[str, Callable[[Iterable[pa.Table]], RowBook[Any]]] = {
    EMBEDDINGS: _dense_book,
    TFIDF: _sparse_book,
    COUNTED_TFIDF: _counted_book,
}


class MappedColumns:
    """Columns in files that grow while parts are read, and are mapped then.

    Mapped files stay readable after their names are gone, so nothing is left behind however the process ends.
    """

    def __init__(self, *names: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bcls-rows-")
        self._files = {name: (Path(self._folder.name) / name).open("wb") for name in names}

    def __enter__(self) -> MappedColumns:
        return self

    @property
    def names(self) -> list[str]:
        return list(self._files)

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
