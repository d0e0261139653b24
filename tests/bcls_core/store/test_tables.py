from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcls_core.errors import StoreError
from bcls_core.store.tables import from_parquet, to_parquet


def table() -> Any:
    return pa.table({"id": pa.array(range(100), pa.int64()), "word": ["a", "b"] * 50})


def test_equal_rows_give_equal_bytes_however_they_are_held() -> None:
    whole = to_parquet(table(), "t", row_group_size=32)
    chunked = pa.concat_tables([table().slice(0, 13), table().slice(13)])
    described = table().replace_schema_metadata({"pandas": "{}"})
    assert to_parquet(chunked, "t", row_group_size=32) == whole
    assert to_parquet(described, "t", row_group_size=32) == whole


def test_it_is_zstd_in_row_groups() -> None:
    metadata = pq.ParquetFile(pa.BufferReader(to_parquet(table(), "t", row_group_size=32))).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [32, 32, 32, 4]
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_binary_columns_are_stored_as_they_are() -> None:
    lists = pa.array([[{"x": 1, "y": "a"}]] * 3)
    mixed = pa.table({"image": pa.array([b"one", b"two", b"one"], pa.binary()), "lists": lists})
    data = to_parquet(mixed, "t")
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    found = {group.column(index).path_in_schema: group.column(index).compression for index in range(group.num_columns)}
    assert found == {
        "image": "UNCOMPRESSED",
        "lists.list.element.x": "ZSTD",
        "lists.list.element.y": "ZSTD",
    }
    assert data.count(b"\3\0\0\0one") == 2, "no dictionary"
    assert from_parquet(io.BytesIO(data), "t").equals(mixed)


def test_columns_come_in_the_order_asked_for() -> None:
    data = to_parquet(table(), "t")
    assert from_parquet(io.BytesIO(data), "t", ["word", "id"]).equals(table().select(["word", "id"]))
    assert from_parquet(io.BytesIO(data), "t").equals(table())
    with pytest.raises(StoreError, match="t has no column 'words'; it has id, word"):
        from_parquet(io.BytesIO(data), "t", ["words"])


def test_a_damaged_file_is_named() -> None:
    data = to_parquet(table(), "t")
    with pytest.raises(StoreError, match="captions/part-00000 cannot be read as Parquet"):
        from_parquet(io.BytesIO(data[:-9]), "captions/part-00000")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None], pa.list_(pa.float16(), 2)),
        pa.array([[None]], pa.list_(pa.list_(pa.float16(), 2))),
        pa.array([{"e": None}], pa.struct([("e", pa.list_(pa.int8(), 2))])),
    ],
)
def test_nulls_that_parquet_cannot_return_are_refused(column: Any) -> None:
    with pytest.raises(StoreError, match="'x' holds a null among fixed-size lists"):
        to_parquet(pa.table({"x": column}), "t")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1], pa.timestamp("s")), r"column 'x' of type timestamp\[s\] as timestamp\[ms\]"),
        (pa.array([86_400_000], pa.date64()), r"column 'x' of type date64\[ms\] as date32\[day\]"),
        (pa.array([None], pa.month_day_nano_interval()), "Parquet cannot hold this table"),
    ],
)
def test_types_that_parquet_changes_are_refused(column: Any, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        to_parquet(pa.table({"x": column}), "t")
