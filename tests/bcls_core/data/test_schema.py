from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcls_core.data.schema import CAPTIONS, IMAGES, REJECTS, SPLITS, features_schema

EXAMPLES = {
    "images": (IMAGES, [("a", "train", None, None, None, None), ("b", "val", b"\xff", 1, 2, "00")]),
    "captions": (CAPTIONS, [(2**63 - 1, "a", "train", "text")]),
    "rejects": (REJECTS, [("images", "a", "missing")]),
    "features": (features_schema(2), [("a", np.array([1, 2], np.float16))]),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("some", [True, False])
def test_tables_survive_parquet_with_and_without_rows(name: str, some: bool) -> None:
    schema, rows = EXAMPLES[name]
    columns = list(zip(*rows, strict=True)) if some else [[] for _ in schema]
    table = pa.table([pa.array(list(c), f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")

    returned = pq.ParquetFile(pa.BufferReader(buffer.getvalue())).read()

    assert returned.schema == schema
    assert returned.equals(table)


def test_splits_come_in_the_order_of_use() -> None:
    assert SPLITS == ("train", "val", "test")
