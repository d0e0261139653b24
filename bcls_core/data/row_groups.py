"""Single values of one column of a published table, read by row group through a bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bcls_core.errors import CorpusError
from bcls_core.store import Artifact

Rows = NDArray[np.int64]
Value = TypeVar("Value")

_OPEN_FILES = 64


class ColumnReader:
    """Values of a column by row number through some parts of a table; picklable, safe to share between threads.

    Row groups that were read stay in memory, the least recently used leave first, and all that stay hold at most
    `cache_bytes` together (one is always kept). Files are read in place, or from a local copy of a remote store.
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
            StoreError: a file is missing.
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
            name: value for name, value in self.__dict__.items() if name not in ("_lock", "_files", "_groups", "_bytes")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_caches()

    def _open_caches(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[int, tuple[Any, Rows]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._bytes = 0

    def _scalar(self, row: int) -> Any:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        file, starts = self._file(part)
        within = row - int(self._starts[part])
        group = int(np.searchsorted(starts, within, side="right")) - 1
        return self._group(part, group, file)[within - int(starts[group])]

    def _file(self, part: int) -> tuple[Any, Rows]:
        """An open part, and the first row of each of its row groups."""
        if part not in self._files:
            # A path, not a Python file: Arrow's threads may still hold one of those when the interpreter shuts down.
            file = pq.ParquetFile(str(self._artifact.local(self._paths[part])), pre_buffer=False)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self._files[part] = file, np.cumsum([0, *counts[:-1]], dtype=np.int64)
        self._files.move_to_end(part)
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1][0].close()
        return self._files[part]

    def _group(self, part: int, group: int, file: Any) -> pa.Array:
        key = part, group
        if key not in self._groups:
            table = file.read_row_group(group, columns=[self._column], use_threads=False)
            self._groups[key] = table.column(0).combine_chunks()
            self._bytes += self._groups[key].nbytes
        self._groups.move_to_end(key)
        while len(self._groups) > 1 and self._bytes > self._cache_bytes:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes
        return self._groups[key]
