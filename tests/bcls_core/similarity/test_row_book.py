from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from bcls_core.errors import StoreError
from bcls_core.similarity.counted_rows import CountedRows
from bcls_core.similarity.label_tables import representations_table
from bcls_core.similarity.row_book import COUNTED_TFIDF, EMBEDDINGS, TFIDF, open_book

IDS = np.array([70, 3, 41, 12, 5, 99])


def dense() -> np.ndarray:
    return np.arange(24, dtype=np.float16).reshape(6, 4)


def sparse_rows() -> sparse.csr_array:
    dice = np.random.default_rng(0)
    return sparse.csr_array(np.where(dice.random((6, 9)) < 0.4, dice.random((6, 9)), 0).astype(np.float32))


def counted() -> CountedRows:
    weights = sparse_rows()
    counts = sparse.csr_array((np.arange(1, weights.nnz + 1, dtype=np.int32), weights.indices, weights.indptr))
    return CountedRows(weights, counts, np.arange(10, 16, dtype=np.int32))


ROWS = {EMBEDDINGS: dense, TFIDF: sparse_rows, COUNTED_TFIDF: counted}


def tables(kind: str) -> list[pa.Table]:
    rows = ROWS[kind]()
    parts = [slice(0, 2), slice(2, 2), slice(2, 6)]
    return [representations_table(kind, pa.array(IDS[p]), pa.array(["train"] * len(IDS[p])), rows[p]) for p in parts]


@pytest.mark.parametrize("kind", [EMBEDDINGS, TFIDF, COUNTED_TFIDF])
def test_rows_come_back_by_id(kind: str) -> None:
    book = open_book(kind, tables(kind))
    np.testing.assert_array_equal(book.ids, np.sort(IDS))
    taken = book.take(np.array([5, 70, 5, 99]))
    if kind == COUNTED_TFIDF:
        assert taken.lengths.tolist() == [14, 10, 14, 15]
        counts = counted().counts.toarray()[[4, 0, 4, 5]]
        np.testing.assert_array_equal(taken.counts.toarray(), counts[:, : taken.shape[1]])
        taken = taken.weights
    expected = (dense() if kind == EMBEDDINGS else sparse_rows().toarray())[[4, 0, 4, 5]]
    found = taken if kind == EMBEDDINGS else taken.toarray()
    np.testing.assert_array_equal(found, expected[:, : found.shape[1]])
    assert not expected[:, found.shape[1] :].any()
    assert book.take(np.array([], dtype=np.int64)).shape[0] == 0


@pytest.mark.parametrize("kind", [EMBEDDINGS, TFIDF, COUNTED_TFIDF])
@pytest.mark.parametrize("missing", [4, 1000, -1])
def test_a_missing_caption_is_named(kind: str, missing: int) -> None:
    with pytest.raises(StoreError, match=f"caption_id {missing} has no representation among 6"):
        open_book(kind, tables(kind)).take(np.array([3, missing]))


def test_a_caption_given_twice_is_refused() -> None:
    first = tables(EMBEDDINGS)[0]
    with pytest.raises(StoreError, match="caption_id 3 has two"):
        open_book(EMBEDDINGS, [first, first])


@pytest.mark.parametrize("kind", [EMBEDDINGS, TFIDF, COUNTED_TFIDF])
def test_nothing_is_left_on_disk_while_rows_stay_readable(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    book = open_book(kind, iter(tables(kind)))
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert book.take(np.array([3])).shape[0] == 1


@pytest.mark.parametrize("kind", [EMBEDDINGS, TFIDF, COUNTED_TFIDF])
def test_a_book_may_be_empty(kind: str) -> None:
    for parts in ([], tables(kind)[1:2]):
        book = open_book(kind, parts)
        assert book.take(np.array([], dtype=np.int64)).shape[0] == 0
        with pytest.raises(StoreError, match="among 0"):
            book.take(np.array([1]))
