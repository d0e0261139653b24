"""Single values of one column of a published table, by row number.

Row groups are read whole and kept in a bounded cache. Where a binary column is stored without compression, a row group
that leaves the cache leaves the places of its values behind: from then on each is read alone. So a random order over a
corpus much larger than memory reads it once by row groups, and afterwards what it asks for.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bcls_core.errors import CorpusError, StoreError
from bcls_core.store import Artifact

Rows = NDArray[np.int64]
Value = TypeVar("Value")

_OPEN_FILES = 64


@dataclass
class _Part:
    """An open file.

    Attributes:
        starts: first row of each of its row groups.
        raw: opened once values are read by their places.
    """

    path: Path
    table: pq.ParquetFile
    starts: Rows
    raw: IO[bytes] | None = None

    def read(self, begin: int, length: int) -> bytes:
        """Bytes of the file; fewer than `length` where it ends before."""
        if self.raw is None:
            self.raw = self.path.open("rb", buffering=0)
        return os.pread(self.raw.fileno(), length, begin)

    def close(self) -> None:
        self.table.close()
        if self.raw is not None:
            self.raw.close()


class ColumnReader:
    """Values of a column by row number through some parts of a table; picklable, safe to share between threads.

    Row groups that were read stay in memory, the least recently used leave first, and all that stay hold at most
    `cache_bytes` together (one is always kept). Files are read in place, or from a local copy of a remote store. Places
    of values take 16 bytes each.
    """

    def __init__(self, artifact: Artifact, table: str, column: str, parts: Sequence[int], *, cache_bytes: int) -> None:
        """
        Args:
            parts: numbers of the parts, in the order in which their rows are numbered.
        """
        entries = artifact.parts(table)
        self._artifact = artifact
        self._column = column
        self._paths = [entries[part].path for part in parts]
        self._starts: Rows = np.cumsum([0, *(entries[part].rows or 0 for part in parts)], dtype=np.int64)
        self._cache_bytes = cache_bytes
        self._open_caches()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Sequence[int] | Rows, convert: Callable[[Any], Value]) -> list[Value]:
        """Values of the given rows, in their order.

        Args:
            convert: makes a value of an Arrow scalar; a copy, or it would keep the whole row group in memory.
        Raises:
            CorpusError: a row is not there.
            StoreError: a file is missing or damaged.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise CorpusError(
                f"rows {numbers.min()} to {numbers.max()} were asked for; there are rows 0 to {len(self) - 1}."
            )
        values: dict[int, Value] = {}
        # Sorted, so that a row group is fetched once however the rows are mixed.
        for position in np.argsort(numbers, kind="stable").tolist():
            with self._lock:
                values[position] = convert(self._scalar(int(numbers[position])))
        return [values[position] for position in range(len(numbers))]

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_lock", "_files", "_groups", "_bytes", "_places")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_caches()

    def _open_caches(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[int, _Part] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._bytes = 0
        self._places: dict[tuple[int, int], Rows | None] = {}

    def _scalar(self, row: int) -> Any:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        part = self._part(number)
        within = row - int(self._starts[number])
        group = int(np.searchsorted(part.starts, within, side="right")) - 1
        index = within - int(part.starts[group])
        places = self._places.get((number, group))
        if places is None or (number, group) in self._groups:
            return self._group(number, group)[index]
        begin, length = places[:, index].tolist()
        value = part.read(begin, length)
        if len(value) < length:
            raise self._damaged(number, "it ends too early")
        return pa.scalar(value, pa.binary())

    def _damaged(self, number: int, why: object) -> StoreError:
        return StoreError(
            f"{self._artifact.url}/{self._paths[number]} cannot be read as Parquet ({why}); run "
            "`bcls artifacts verify` on it."
        )

    def _part(self, number: int) -> _Part:
        if number not in self._files:
            path = self._artifact.local(self._paths[number])
            try:
                # A path, not a Python file: Arrow's threads may still hold one when the interpreter shuts down.
                table = pq.ParquetFile(str(path), pre_buffer=False)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(number, error) from error
            counts = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            starts = np.cumsum([0, *counts[:-1]], dtype=np.int64)
            self._files[number] = _Part(path, table, starts)
        self._files.move_to_end(number)
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return self._files[number]

    def _group(self, number: int, group: int) -> pa.Array:
        key = number, group
        if key not in self._groups:
            try:
                table = self._part(number).table.read_row_group(group, columns=[self._column], use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(number, error) from error
            self._groups[key] = table.column(0).combine_chunks()
            self._bytes += self._groups[key].nbytes
        self._groups.move_to_end(key)
        while len(self._groups) > 1 and self._bytes > self._cache_bytes:
            left, values = self._groups.popitem(last=False)
            self._bytes -= values.nbytes
            if left not in self._places:
                self._places[left] = _places_of(values, self._part(left[0]), left[1], self._column)
        return self._groups[key]


def _places_of(values: pa.Array, part: _Part, group: int, column: str) -> Rows | None:
    """Where the values of a row group stand in the file: (2, values), first byte and length of each.

    None where they cannot be read from there: a column of another type, compressed, or with nulls.
    """
    if not pa.types.is_binary(values.type) or values.null_count:
        return None
    described = part.table.metadata.row_group(group)
    chunks = (described.column(index) for index in range(described.num_columns))
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == column)
    if chunk.compression != "UNCOMPRESSED":
        return None
    stored = part.read(chunk.data_page_offset, chunk.total_compressed_size)
    places, end = np.zeros((2, len(values)), np.int64), 0
    for index, scalar in enumerate(values):
        value = scalar.as_py()
        # Found by what they are, so that a place is right whatever the pages around it look like.
        begin = stored.find(value, end)
        if begin < 0:
            return None
        end = begin + len(value)
        places[:, index] = chunk.data_page_offset + begin, len(value)
    return places
