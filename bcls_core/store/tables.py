"""Tables as Parquet bytes: the same bytes for the same rows, and rows that come back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from bcls_core.errors import StoreError
from bcls_core.store.digest import columns_of


def to_parquet(table: Any, where: str, *, row_group_size: int | None = None) -> bytes:
    """Parquet bytes (zstd) of a table; `where` is named in errors.

    Binary columns hold encoded pictures and the like: they are stored as they are, so that a single value can be read
    by its place in the file (`data/row_groups.py`).

    Chunks are merged and metadata that no digest covers is left out, so equal rows in equal order give equal bytes
    (of one pyarrow version).

    Args:
        row_group_size: rows that are read together; pyarrow's default, about a million, if None.

    Raises:
        StoreError: the rows would not come back as they are.
    """
    plain = _without_metadata(table).combine_chunks()
    _refuse_null_fixed_size_lists(plain, where)
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(plain, sink, row_group_size=row_group_size, **_encodings(plain.schema))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where}: Parquet cannot hold this table ({error}); cast the column it names.") from error
    data: bytes = sink.getvalue().to_pybytes()
    wanted, found = columns_of(plain.schema), columns_of(pq.read_schema(pa.BufferReader(data)))
    for name, kind in wanted.items():
        if found.get(name) != kind:
            raise StoreError(
                f"{where}: Parquet returns column {name!r} of type {kind} as {found.get(name)}; "
                f"cast it to {found.get(name)} first."
            )
    return data


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """Options of pyarrow's writer that have binary columns plain and the others compressed."""
    plain = {field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)}
    if not plain:
        return {"compression": "zstd"}
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema  # of nested columns there are several
    paths = [leaves.column(index).path for index in range(len(leaves))]
    return {
        "compression": {path: "none" if path in plain else "zstd" for path in paths},
        "use_dictionary": [path for path in paths if path not in plain],
    }


def from_parquet(handle: IO[bytes], where: str, columns: Sequence[str] | None = None) -> Any:
    """The table in an open Parquet file, `columns` of it in that order; `where` is named in errors.

    Raises:
        StoreError: a column is not there, or the file is damaged.
    """
    try:
        # Arrow's own threads may drop their last reference to a Python handle's bytes after the read has returned; when
        # that falls into the interpreter's exit, the process aborts. So neither pre-buffering nor threads here.
        file = pq.ParquetFile(handle, pre_buffer=False)
        names = file.schema_arrow.names
        if columns is not None and (unknown := [name for name in columns if name not in names]):
            raise StoreError(f"{where} has no column {', '.join(map(repr, unknown))}; it has {', '.join(names)}.")
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where} cannot be read as Parquet ({error}); run `bcls artifacts verify` on it.") from error
    return table if columns is None else table.select(list(columns))


def _without_metadata(table: Any) -> Any:
    fields = [pa.field(field.name, field.type, field.nullable) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _refuse_null_fixed_size_lists(table: Any, where: str) -> None:
    # Parquet stores such a null as an empty list, which Arrow then refuses to read.
    for name, column in zip(table.column_names, table.columns, strict=True):
        if any(_holds_null_fixed_size_list(chunk) for chunk in column.chunks):
            raise StoreError(
                f"{where}: column {name!r} holds a null among fixed-size lists, which Parquet cannot return; "
                "leave the row out, or use lists of variable size."
            )


def _holds_null_fixed_size_list(array: Any) -> bool:
    kinds = pa.types
    if kinds.is_fixed_size_list(array.type):
        return bool(array.null_count) or _holds_null_fixed_size_list(array.flatten())
    if kinds.is_list(array.type) or kinds.is_large_list(array.type):
        return _holds_null_fixed_size_list(array.flatten())
    if kinds.is_struct(array.type):
        return any(map(_holds_null_fixed_size_list, array.flatten()))
    return False
