"""A split's embeddings, gathered from parts in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bcls_core.errors import StoreError
from bcls_core.similarity.label_tables import representations_table
from bcls_core.similarity.split_rows import gather_dense, open_dense
from bcls_core.store import Store
from bcls_core.store.scratch import Scratch

IDS = np.array([2, 3, 5, 7, 11, 13])
IMAGES = np.array([0, 0, 1, 1, 2, 2])
ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)


def table(places: list[int], rows: np.ndarray = ROWS, ids: np.ndarray = IDS) -> pa.Table:
    splits = pa.array(["train"] * len(places))
    return representations_table("caption_embeddings", pa.array(ids[places]), splits, rows[places])


@pytest.fixture(params=["disk", "memory"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    root = str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"
    return Store(root).draft("labels", "0" * 16).scratch


def test_rows_stand_in_order_of_ids(scratch: Scratch) -> None:
    assert gather_dense(scratch, "rows/m/train", IDS, IMAGES, iter([table([4, 1]), table([5, 0, 3, 2])])) == (6, 5)
    found = open_dense(scratch, "rows/m/train")
    assert isinstance(found.rows, np.memmap)
    np.testing.assert_array_equal(found.rows, ROWS)
    np.testing.assert_array_equal(found.ids, IDS)
    np.testing.assert_array_equal(found.images, IMAGES)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([table([0, 1, 2, 3, 4])], "caption_id 13 has no embedding"),
        ([table([0, 1, 2]), table([2, 3, 4, 5])], "two embeddings"),
        ([table([0, 1, 2, 3, 4, 5, 5])], "two embeddings"),
        ([table([0, 1, 2]), table([3, 4, 5], ROWS[:, :4].copy())], "of 5 and of 4 values"),
        ([table([0, 1], ids=IDS + 1)], "a caption that the split does not hold"),
        ([], "no embedding"),
    ],
)
def test_what_does_not_fit_is_refused(scratch: Scratch, tables: list[pa.Table], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        gather_dense(scratch, "rows/m/train", IDS, IMAGES, tables)
    assert not scratch.exists("rows/m/train/rows.npy")
