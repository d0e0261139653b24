from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bcls_core.data.row_groups import ColumnReader
from bcls_core.errors import CorpusError
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


def test_a_batch_reads_each_row_group_once(artifact: Artifact) -> None:
    column = reader(artifact, cache_bytes=0)
    read: list[object] = []
    original = column._file

    def counted(part: int) -> object:
        file, starts = original(part)

        class Counting:
            def read_row_group(self, group: int, **options: object) -> object:
                read.append((part, group))
                return file.read_row_group(group, **options)

        return Counting(), starts

    column._file = counted  # type: ignore[assignment, method-assign]
    column.take([23, 0, 12, 1, 13, 23], AS_PY)

    assert read == [(0, 0), (3, 0), (3, 3)]


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
