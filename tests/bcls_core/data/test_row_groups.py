from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcls_core.data.row_groups import ColumnReader
from bcls_core.errors import CorpusError, StoreError
from bcls_core.store import Artifact, Store

AS_PY = methodcaller("as_py")
PART_ROWS = [7, 0, 5, 12]


def value(part: int, row: int) -> bytes:
    return f"{part}/{row}".encode() * 10


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    draft = Store(tmp_path).draft("corpus", "v1")
    for part, rows in enumerate(PART_ROWS):
        column = pa.array([value(part, row) for row in range(rows)], pa.binary())
        draft.write_table(
            "t", part, pa.table({"other": pa.array(range(rows), pa.int64()), "b": column}), row_group_size=3
        )
    return draft.commit(fingerprint={}, schema="t/1")


def reader(artifact: Artifact, parts: list[int] | None = None, cache_bytes: int = 10**6) -> ColumnReader:
    return ColumnReader(artifact, "t", "b", [0, 1, 2, 3] if parts is None else parts, cache_bytes=cache_bytes)


ALL = [value(part, row) for part, rows in enumerate(PART_ROWS) for row in range(rows)]


@pytest.mark.parametrize("cache_bytes", [0, 100, 10**6])
def test_rows_come_in_the_order_asked_for_with_any_cache(artifact: Artifact, cache_bytes: int) -> None:
    column = reader(artifact, cache_bytes=cache_bytes)
    rows = np.random.default_rng(0).integers(0, len(ALL), 100)

    assert len(column) == len(ALL) == 24
    assert column.take(rows, AS_PY) == [ALL[row] for row in rows]
    assert column.take([], AS_PY) == []


def test_rows_are_numbered_through_the_given_parts(artifact: Artifact) -> None:
    column = reader(artifact, [3, 0])

    assert column.take([0, 12], AS_PY) == [value(3, 0), value(0, 0)]


def test_rows_that_are_not_there(artifact: Artifact) -> None:
    for rows in ([-1], [3, 24]):
        with pytest.raises(CorpusError, match="there are rows 0 to 23"):
            reader(artifact).take(rows, AS_PY)


def test_the_cache_keeps_the_latest_groups_within_its_bound(artifact: Artifact) -> None:
    bound = 120
    column = reader(artifact, cache_bytes=bound)
    for row in range(24):
        column.take([row], AS_PY)

        held = sum(group.nbytes for group in column._groups.values())
        assert held == column._bytes
        assert held <= bound or len(column._groups) == 1
    assert list(column._groups)[-1] == (3, 3)


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Row groups that were read whole, in order."""
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, **options: Any) -> Any:
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    return read


def test_a_batch_reads_each_row_group_once(artifact: Artifact, groups_read: list[int]) -> None:
    reader(artifact, cache_bytes=0).take([23, 0, 12, 1, 13, 23], AS_PY)

    assert groups_read == [0, 0, 3]


def test_what_left_the_cache_is_read_value_by_value(artifact: Artifact, groups_read: list[int]) -> None:
    column = reader(artifact, cache_bytes=0)
    column.take(range(24), AS_PY)
    first = len(groups_read)
    order = np.random.default_rng(1).permutation(24)

    assert column.take(order, AS_PY) == [ALL[row] for row in order]
    assert first == 3 + 2 + 4
    assert len(groups_read) == first, "the last group is in the cache, the others are not needed whole"


def test_equal_and_empty_values_keep_their_places(tmp_path: Path, groups_read: list[int]) -> None:
    values = [b"same", b"", b"same", b"samesame", b"\x04\x00\x00\x00", b""] * 300_000
    draft = Store(tmp_path).draft("corpus", "v1")
    draft.write_table("t", 0, pa.table({"b": pa.array(values, pa.binary())}), row_group_size=900_000)
    column = ColumnReader(draft.commit(fingerprint={}, schema="t/1"), "t", "b", [0], cache_bytes=0)
    column.take([0, 1_000_000], AS_PY)
    rows = np.random.default_rng(2).integers(0, 900_000, 500)

    assert column.take(rows, AS_PY) == [values[row] for row in rows]
    assert groups_read == [0, 1]


def test_a_damaged_file_is_named(artifact: Artifact) -> None:
    column, path = reader(artifact, cache_bytes=0), artifact.local("t/part-00003.parquet")
    column.take(range(24), AS_PY)
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(StoreError, match=r"t/part-00003\.parquet cannot be read .*ends too early.*artifacts verify"):
        column.take([12, 20], AS_PY)
    with pytest.raises(StoreError, match=r"t/part-00003\.parquet cannot be read .*artifacts verify"):
        reader(artifact).take([12], AS_PY)


@pytest.mark.parametrize(
    "column",
    [pa.array(["compressed"] * 9), pa.array([b"null", None, b""] * 3, pa.binary())],
    ids=["compressed", "with nulls"],
)
def test_other_columns_are_read_by_row_groups(tmp_path: Path, column: pa.Array, groups_read: list[int]) -> None:
    draft = Store(tmp_path).draft("corpus", "v1")
    draft.write_table("t", 0, pa.table({"b": column}), row_group_size=3)
    values = ColumnReader(draft.commit(fingerprint={}, schema="t/1"), "t", "b", [0], cache_bytes=0)

    assert values.take([0, 4, 8, 1], AS_PY) == column.take(pa.array([0, 4, 8, 1])).to_pylist()
    assert values.take([0, 1], AS_PY) == column[:2].to_pylist()
    assert groups_read == [0, 1, 2, 0]


def test_a_pickled_reader_leaves_its_cache_behind(artifact: Artifact) -> None:
    column = reader(artifact)
    column.take(range(24), AS_PY)

    copy = pickle.loads(pickle.dumps(column))  # noqa: S301 - our own bytes

    assert len(copy._groups) == 0
    assert copy.take([5], AS_PY) == [ALL[5]]


def test_threads_may_share_a_reader(artifact: Artifact) -> None:
    column = reader(artifact, cache_bytes=100)
    orders = [np.random.default_rng(seed).permutation(24) for seed in range(16)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda rows: column.take(rows, AS_PY), orders))

    assert found == [[ALL[row] for row in rows] for rows in orders]
