"""The inverted index against the matrix, sorted: the same numbers, bit for bit, in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from bcls_core.errors import ShapeError
from bcls_core.similarity import tfidf_search
from bcls_core.similarity.cider_d import CiderD, ClippedSimilarity
from bcls_core.similarity.counted_rows import CountedRows
from bcls_core.similarity.tfidf import TfidfSimilarity

FREQUENT, RARE = 12, 400


def captions(count: int, seed: int, longest: int = 14) -> list[str]:
    """A few words that nearly every caption has, many that few have; repeats within captions and of captions."""
    dice = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        length = dice.integers(0, longest)
        rare = dice.integers(0, RARE, length)
        common = dice.integers(0, FREQUENT, length)
        texts.append(" ".join(f"c{c}" if dice.random() < 0.6 else f"r{r}" for c, r in zip(common, rare, strict=True)))
    texts[count // 2 : count // 2 + count // 8] = texts[: count // 8]
    return texts


def sides(kind: str, texts: list[str]) -> tuple[TfidfSimilarity, Any]:
    rows = CiderD.fit(texts, np.arange(len(texts)) // 3).represent(texts)
    return (ClippedSimilarity(), rows) if kind == "cider-d" else (TfidfSimilarity(), rows.weights)


def slow_top_k(matrix: Any, k: int, forbidden: Any) -> tuple[Any, Any]:
    matrix = np.where(forbidden, -np.inf, matrix).astype(np.float32)
    order = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(matrix, order, axis=1)
    ids = np.where(np.isneginf(scores), -1, order)
    missing = ((0, 0), (0, max(0, k - matrix.shape[1])))
    return np.pad(scores, missing, constant_values=-np.inf), np.pad(ids, missing, constant_values=-1)


def assert_same(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[0].tobytes() == expected[0].tobytes()
    assert (found[0].dtype, found[1].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("kind", ["cider", "cider-d"])
@pytest.mark.parametrize("k", [1, 10, 40, 900, 1000])
def test_rows_find_others_of_other_groups(kind: str, k: int) -> None:
    similarity, rows = sides(kind, captions(900, seed=k))
    groups = np.random.default_rng(0).integers(0, 30, 900) ** 2 // 60
    same = groups[:, None] == groups[None, :]
    matrix = similarity.matrix(rows, rows)
    assert_same(similarity.top_k(rows, k, exclude=groups), slow_top_k(matrix, k, same))
    assert_same(similarity.top_k(rows, k), slow_top_k(matrix, k, np.eye(900, dtype=bool)))


@pytest.mark.parametrize("kind", ["cider", "cider-d"])
@pytest.mark.parametrize("k", [3, 50])
def test_queries_of_their_own(kind: str, k: int) -> None:
    similarity, rows = sides(kind, captions(1500, seed=7))
    queries, searched = rows[np.arange(0, 1500, 5)], rows[np.arange(0, 1500, 2)]
    matrix = similarity.matrix(queries, searched)
    assert_same(
        similarity.top_k(searched, k, queries=queries), slow_top_k(matrix, k, np.zeros(matrix.shape, dtype=bool))
    )
    mine, theirs = np.arange(300) % 7, np.arange(750) % 5
    found = similarity.top_k(searched, k, queries=queries, exclude=theirs, exclude_queries=mine)
    assert_same(found, slow_top_k(matrix, k, mine[:, None] == theirs[None, :]))


@pytest.mark.parametrize("kind", ["cider", "cider-d"])
@pytest.mark.parametrize(("least", "share"), [(0, 16), (0, 10**6), (10**6, 1), (10**6, 10**6), (10**6, 16)])
def test_what_is_pruned_when_decides_nothing(
    kind: str, least: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether no column counts as frequent or every one, and whether candidates are thought to be many or few."""
    similarity, rows = sides(kind, captions(1200, seed=3))
    expected = slow_top_k(similarity.matrix(rows, rows), 20, np.eye(1200, dtype=bool))
    monkeypatch.setattr(tfidf_search, "_FREQUENT", share)
    monkeypatch.setattr(tfidf_search, "_FEW", 0)
    monkeypatch.setattr(tfidf_search, "_LEAST", least)
    assert_same(similarity.top_k(rows, 20), expected)


def test_threads_and_tasks_decide_nothing() -> None:
    similarity, rows = sides("cider-d", captions(2000, seed=5))
    before = torch.get_num_threads()
    found = []
    try:
        for threads, at_once in ((1, 10_000), (2, 512), (3, 17)):
            torch.set_num_threads(threads)
            found.append(similarity.top_k(rows, 12, queries_at_once=at_once))
    finally:
        torch.set_num_threads(before)
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@pytest.mark.parametrize("kind", ["cider", "cider-d"])
def test_rows_without_words_and_no_rows(kind: str) -> None:
    similarity, rows = sides(kind, ["", "a b", "", "a b", "c", "a b", "d e f"])
    assert_same(similarity.top_k(rows, 4), slow_top_k(similarity.matrix(rows, rows), 4, np.eye(7, dtype=bool)))
    nothing = rows[np.arange(0)]
    assert similarity.top_k(nothing, 3)[0].shape == (0, 3)
    scores, ids = similarity.top_k(nothing, 2, queries=rows)
    assert np.isneginf(scores).all()
    assert (ids == -1).all()
    assert similarity.top_k(rows[np.array([0])], 2)[1].tolist() == [[-1, -1]]
    assert similarity.top_k(rows, 2, exclude=np.zeros(7))[1].tolist() == [[-1, -1]] * 7
    with pytest.raises(ShapeError, match="queries_at_once=0"):
        similarity.top_k(rows, 1, queries_at_once=0)


def test_many_equal_scores_go_to_the_lower_numbers() -> None:
    similarity, rows = sides("cider", ["a red bus", "two dogs run"] * 400 + ["a red car"] * 3)
    assert_same(similarity.top_k(rows, 30), slow_top_k(similarity.matrix(rows, rows), 30, np.eye(803, dtype=bool)))


def test_a_length_too_far_off_scores_nothing() -> None:
    """exp(-d^2 / 72) is no fp32 number above 0 from 87 tokens on, and close to it the least ones there are."""
    words = [f"w{i}" for i in range(130)]
    texts = [" ".join(words[:length]) for length in [*range(1, 130, 3), 129, 86, 87, 88, 89]]
    similarity, rows = sides("cider-d", texts)
    matrix = similarity.matrix(rows, rows)
    assert ((matrix > 0) & (matrix < np.finfo(np.float32).tiny)).any()
    for k in (1, 5, 30, 60):
        assert_same(similarity.top_k(rows, k), slow_top_k(matrix, k, np.eye(len(texts), dtype=bool)))


def test_a_vocabulary_far_wider_than_the_rows() -> None:
    similarity, rows = sides("cider-d", captions(200, seed=2))

    def spread(cells: Any) -> Any:
        return sparse.csr_array((cells.data, cells.indices * 1009, cells.indptr), shape=(200, rows.shape[1] * 1009))

    wide = CountedRows(spread(rows.weights), spread(rows.counts), rows.lengths)
    assert_same(similarity.top_k(wide, 9), similarity.top_k(rows, 9))
