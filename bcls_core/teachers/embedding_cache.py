"""Embeddings that are kept between jobs, by what was encoded and the teacher's fingerprint."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ModelError
from bcls_core.store.canonical import fingerprint as name_of
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.local import LocalFilesystem

Rows = NDArray[np.float16]
Keys = NDArray[np.bytes_]
Encode = Callable[[Sequence[str]], Rows]
Make = Callable[[NDArray[np.int64]], Rows]

FOLDER = "embeddings"
PIECE = 16384
"""Captions encoded between two writes: what a killed job loses at most."""

_MAGIC = b"BCLSROWS"
_DIGEST = 32
_HEADER = 32  # magic, number of rows, numbers in a row, zeros
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of one file: `keys` (n,) sha256 of inputs in ascending order, `rows` (n, dimension)."""

    keys: Keys
    rows: Rows


class EmbeddingCache:
    """Rows of one teacher, in parts that are written once and never changed, below `embeddings/` of a root.

    A part has the next free number and is put if absent, whole or not at all; so processes that write at once queue
    up, and of two rows for one input the part with the lower number decides, for everybody and for good. A part whose
    checksum is wrong counts as absent: its inputs are encoded again and written to a new part. Parts on a disk are
    mapped into memory, others are read.
    """

    def __init__(self, filesystem: Filesystem, fingerprint: Mapping[str, Any], dimension: int | None = None) -> None:
        """
        Args:
            filesystem: a root, for example a store's.
            fingerprint: of the teacher; teachers of different fingerprints share nothing.
            dimension: numbers in a row; if None that of the first part, or of the first rows that are made: so a
                teacher need not be loaded to learn that nothing is left for it.
        """
        self._filesystem = filesystem
        self._folder = f"{FOLDER}/{name_of(fingerprint)[:32]}"
        self._dimension = dimension
        self._parts: dict[str, _Part | None] = {}  # None: damaged

    def encode(self, captions: Sequence[str], encode: Encode) -> Rows:
        """(captions, dimension) rows: those that are known as they are kept, the others from `encode`, then kept.

        Args:
            captions: texts; equal ones are encoded once.
            encode: texts -> rows, as `TextTeacher.encode`; called for at most `PIECE` texts at once.
        Raises:
            ModelError: `encode` gives rows of another number or width.
        """
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in captions]
        return self.rows(digests, lambda places: encode([captions[place] for place in places]), piece=PIECE)

    def rows(self, digests: Sequence[bytes], make: Make, *, piece: int) -> Rows:
        """(items, dimension) rows of items by their sha256.

        Args:
            digests: of each item; equal ones are made once.
            make: places among the items -> their rows; called for at most `piece` at once.
            piece: items made between two writes: what a killed job loses at most.
        Raises:
            ModelError: `make` gives rows of another number or width.
        """
        first: dict[bytes, int] = {}
        for place, digest in enumerate(digests):
            first.setdefault(digest, place)
        keys = np.frombuffer(b"".join(first), dtype=f"S{_DIGEST}")
        places = np.fromiter(first.values(), dtype=np.int64, count=len(first))
        rows, known = self._look_up(keys)
        unknown = np.flatnonzero(~known)
        for start in range(0, len(unknown), piece):
            asked = unknown[start : start + piece]
            kept = self._keep(keys[asked], self._checked(make(places[asked]), len(asked)))
            rows = rows if rows.shape[1] else np.zeros((len(keys), kept.shape[1]), dtype=np.float16)
            rows[asked] = kept
        row_of = {digest: row for row, digest in enumerate(first)}
        own = np.fromiter((row_of[digest] for digest in digests), dtype=np.int64, count=len(digests))
        return rows[own]

    def _checked(self, made: Any, count: int) -> Rows:
        rows = np.asarray(made)
        if self._dimension is None and rows.ndim == 2:
            self._dimension = rows.shape[1]
        if rows.shape != (count, self._dimension) or rows.dtype != np.float16:
            raise ModelError(
                f"the teacher gives {rows.dtype} rows of shape {rows.shape} for {count} inputs, where its cache "
                f"{self._filesystem.url}/{self._folder} keeps float16 rows of {self._dimension} numbers.\n"
                "  Give the cache the dimension and the fingerprint of this very teacher."
            )
        return rows

    def _look_up(self, keys: Keys) -> tuple[Rows, NDArray[np.bool_]]:
        """The rows of keys, and which of them are known; rows of no width while nobody knows it."""
        parts = self._read_parts()
        rows = np.zeros((len(keys), self._dimension or 0), dtype=np.float16)
        known = np.zeros(len(keys), dtype=np.bool_)
        for part in parts:
            asked = np.flatnonzero(~known)
            if not len(asked):
                break
            places = np.minimum(np.searchsorted(part.keys, keys[asked]), len(part.keys) - 1)
            found = part.keys[places] == keys[asked]
            rows[asked[found]] = part.rows[places[found]]
            known[asked[found]] = True
        return rows, known

    def _keep(self, keys: Keys, rows: Rows) -> Rows:
        """Write rows; returned are those that are kept, which another process may have written meanwhile."""
        while True:
            kept, known = self._look_up(keys)
            kept[~known] = rows[~known]
            if known.all():
                return kept
            number = 1 + max(map(int, self._parts), default=-1)
            data = _to_bytes(keys[~known], rows[~known])
            if self._filesystem.put_if_absent(f"{self._folder}/{number:08d}", data):
                return kept

    def _read_parts(self) -> list[_Part]:
        """All whole parts in order of their numbers; each is read and checked once."""
        for name in self._filesystem.names(self._folder):
            if name not in self._parts and name.isdigit():
                self._parts[name] = self._read(f"{self._folder}/{name}")
        return [part for _, part in sorted(self._parts.items()) if part is not None]

    def _read(self, path: str) -> _Part | None:
        data: NDArray[np.uint8]
        if isinstance(self._filesystem, LocalFilesystem):
            full = Path(self._filesystem.full(path))
            data = np.memmap(full, dtype=np.uint8, mode="r") if full.stat().st_size else np.empty(0, np.uint8)
        else:
            data = np.frombuffer(self._filesystem.read(path), dtype=np.uint8)
        part = _from_bytes(data, self._dimension)
        if part is not None:
            self._dimension = part.rows.shape[1]
        else:
            _LOG.warning(
                "%s/%s is damaged: its inputs are encoded again. Remove it while no job runs.",
                self._filesystem.url,
                path,
            )
        return part


def _to_bytes(keys: Keys, rows: Rows) -> bytes:
    """Header, keys in ascending order, their rows (little-endian), sha256 of all that."""
    order = np.argsort(keys, kind="stable")
    count, dimension = rows.shape
    header = _MAGIC + np.array([count, dimension, 0], dtype="<u8").tobytes()
    data = header + keys[order].tobytes() + rows[order].astype("<f2").tobytes()
    return data + hashlib.sha256(data).digest()


def _from_bytes(data: NDArray[np.uint8], dimension: int | None) -> _Part | None:
    """None if the bytes are not what `_to_bytes` makes of at least one row of that dimension, any if None."""
    if len(data) < _HEADER + _DIGEST or data[:8].tobytes() != _MAGIC:
        return None
    count, width = (int(number) for number in data[8:24].view("<u8"))
    middle = _HEADER + count * _DIGEST
    end = middle + count * width * 2
    if count == 0 or width == 0 or dimension not in (None, width) or len(data) != end + _DIGEST:
        return None
    if hashlib.sha256(data[:end].data).digest() != data[end:].tobytes():
        return None
    keys = data[_HEADER:middle].view(f"S{_DIGEST}")
    return _Part(keys, data[middle:end].view("<f2").reshape(count, width))
