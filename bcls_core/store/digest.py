"""The digest of a table's rows: the same for every order of rows and every cut into files, batches and chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import StoreError
from bcls_core.store.canonical import canonical_json
from bcls_core.store.row_encoding import bytes_and_offsets, encode, join, type_name

ROW_BYTES = 16
_BATCH_BYTES = 32 * 1024 * 1024
_BATCH_ROWS = 65_536

RowDigests = NDArray[np.bytes_]


def columns_of(schema: Any) -> dict[str, str]:
    """Column name -> type name of an Arrow schema, sorted by column name.

    Raises:
        StoreError: a name occurs twice, or a type cannot be stored.
    """
    columns = {}
    for field in schema:
        if field.name in columns:
            raise StoreError(f"column {field.name!r} occurs twice; column names must differ.")
        columns[field.name] = type_name(field.type)
    return dict(sorted(columns.items()))


def row_digests(table: Any) -> RowDigests:
    """Sorted 16-byte blake2b digests of a table's rows, (rows,).

    A row's digest covers the names and types of all columns and the row's values, nulls included. The order of
    columns, chunks, slices, dictionary encoding and the 32- or 64-bit flavour of strings and lists do not matter.

    Raises:
        StoreError: a column's type cannot be stored.
    """
    columns = columns_of(table.schema)
    if not columns:
        raise StoreError("a table without columns has no rows to store; give it at least an id column.")
    # The salt costs nothing and makes the names and types part of every row.
    start = hashlib.blake2b(digest_size=ROW_BYTES, salt=_schema_digest(columns))
    batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * table.num_rows // max(1, table.nbytes)))
    digests: list[bytes] = []
    for batch in table.select(list(columns)).to_batches(max_chunksize=batch_rows):
        data, offsets = bytes_and_offsets(join([encode(column) for column in batch.columns]))
        view = memoryview(data)  # type: ignore[arg-type]  # numpy arrays have the buffer protocol
        for begin, end in pairwise(offsets.tolist()):
            row = start.copy()
            row.update(view[begin:end])
            digests.append(row.digest())
    return np.sort(np.frombuffer(b"".join(digests), f"S{ROW_BYTES}"))


def table_digest(columns: Mapping[str, str], parts: Iterable[RowDigests]) -> str:
    """The sha256, in hexadecimal, of a table's columns and of all row digests of its parts, sorted.

    Args:
        columns: name -> type name, as `columns_of` gives them.
        parts: the row digests of each part, in any order.
    """
    rows = np.concatenate([np.zeros(0, f"S{ROW_BYTES}"), *parts])
    rows.sort()
    return hashlib.sha256(_schema_digest(columns) + rows.tobytes()).hexdigest()


def content_digest(
    schema: str, fingerprint: Mapping[str, Any], tables: Mapping[str, str], files: Mapping[str, str]
) -> str:
    """The sha256, in hexadecimal, of what an artefact says: schema, fingerprint, digests of tables and of other files.

    File layout, timings, hosts and run ids are no part of it.
    """
    content = {"schema": schema, "fingerprint": fingerprint, "tables": tables, "files": files}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _schema_digest(columns: Mapping[str, str]) -> bytes:
    return hashlib.blake2b(canonical_json(dict(columns)), digest_size=ROW_BYTES).digest()
