"""Exact search against searches that look at every pair, on rows made to mislead fast products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ShapeError
from bcls_core.similarity import nearest, prepared_rows, top_k
from bcls_core.similarity.redundant import redundant_rows

Result = tuple[np.ndarray, np.ndarray]
ROW_COUNT = 48


def cosines_by_fsum(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(queries, rows) by correctly rounded sums, one pair at a time."""

    def dot(a: np.ndarray, b: np.ndarray) -> float:
        return math.fsum(a.astype(np.float64) * b.astype(np.float64))

    norms = [math.sqrt(dot(row, row)) for row in rows]
    table = [
        [dot(q, row) / (math.sqrt(dot(q, q)) * norm) for row, norm in zip(rows, norms, strict=True)] for q in queries
    ]
    return np.array(table, dtype=np.float32).reshape(len(queries), len(rows))


def slow_top_k(cosines: np.ndarray, k: int, may_meet: Any) -> Result:
    """Python's sort over every pair."""
    scores = np.full((len(cosines), k), -np.inf, dtype=np.float32)
    ids = np.full((len(cosines), k), -1, dtype=np.int64)
    for q, row in enumerate(cosines):
        found = sorted((-float(cosine), i) for i, cosine in enumerate(row) if may_meet(q, i))
        for place, (negative, i) in enumerate(found[:k]):
            scores[q, place], ids[q, place] = -negative, i
    return scores, ids


def assert_same(found: Result, expected: Result) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    assert (found[0] + np.float32(0)).tobytes() == (expected[0] + np.float32(0)).tobytes()
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def near_ties(rng: np.random.Generator) -> np.ndarray:
    """One row over and over, each time with two coordinates moved by one unit in the last place of fp16."""
    rows = np.repeat(unit(rng.normal(size=(1, 48))), ROW_COUNT, axis=0)
    for row in rows:
        for place in rng.choice(48, size=2, replace=False):
            row[place] = np.nextafter(row[place], np.float16(rng.choice([-4, 4])))
    return rows


def sorted_by_similarity(rng: np.random.Generator) -> np.ndarray:
    """Later rows are ever closer to the first one: each tile brings new best candidates."""
    angles = np.linspace(1.5, 0.01, ROW_COUNT)
    return unit(np.stack([np.cos(angles), np.sin(angles), np.full(ROW_COUNT, 0.001)], axis=1))


ROWS = {
    "gaussian": lambda rng: unit(rng.normal(size=(ROW_COUNT, 24))),
    "duplicates": lambda rng: unit(rng.normal(size=(5, 24)))[rng.integers(0, 5, ROW_COUNT)],
    "all equal": lambda rng: np.repeat(unit(rng.normal(size=(1, 24))), ROW_COUNT, axis=0),
    "near ties": near_ties,
    "multiples": lambda rng: (
        (rng.integers(-2, 3, size=(7, 6)) + np.eye(1, 6, dtype=int) * 9)[rng.integers(0, 7, ROW_COUNT)].astype(
            np.float16
        )
        * np.exp2(rng.integers(-4, 8, size=(ROW_COUNT, 1))).astype(np.float16)
    ),
    "long": lambda rng: (rng.normal(size=(ROW_COUNT, 20)) * np.exp2(rng.integers(-9, 12, size=(ROW_COUNT, 20)))).astype(
        np.float16
    ),
    "sorted": sorted_by_similarity,
    "signs": lambda rng: rng.choice([-1, 1], size=(ROW_COUNT, 5)).astype(np.float16),
}


BLOCKS = {
    "usual": ({}, {}),
    "narrow": ({"_MOST_ROWS": 96, "_ROWS_OF_TASK": 12}, {"_FEWEST_COLUMNS": 96, "_MOST_COLUMNS": 96}),
    "hits without room": ({"_ROOM": 1, "_COLUMN_TASKS": 1}, {"_FEWEST_COLUMNS": 96, "_MOST_COLUMNS": 192}),
}


@pytest.fixture(params=BLOCKS)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the work is cut, which must not be seen in any result."""
    for module, changes in zip((nearest, prepared_rows), BLOCKS[request.param], strict=True):
        for name, value in changes.items():
            monkeypatch.setattr(module, name, value)
    return str(request.param)


@pytest.mark.parametrize("name", ROWS)
def test_the_result_is_the_definition(name: str) -> None:
    rows = ROWS[name](np.random.default_rng(11))
    cosines = cosines_by_fsum(rows, rows)
    for k in (1, 7, ROW_COUNT + 5):
        expected = slow_top_k(cosines, k, lambda q, i: q != i)
        for laid_out in (rows, np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
            assert_same(top_k(laid_out, k), expected)


def exact_cosines(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    norms = np.sqrt((a**2).sum(axis=1))[:, None] * np.sqrt((b**2).sum(axis=1))
    return (a @ b.T / norms).astype(np.float32)


def best_of(cosines: np.ndarray, k: int, skipped: np.ndarray) -> Result:
    """By one sort over every pair."""
    scores = np.where(skipped, -np.inf, cosines.astype(np.float64)).astype(np.float32)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, ids, axis=1)
    return found, np.where(np.isneginf(found), -1, ids)


def clusters(rng: np.random.Generator) -> np.ndarray:
    centres = rng.normal(size=(12, 64))
    rows = unit(centres[rng.integers(0, 12, 900)] + 0.3 * rng.normal(size=(900, 64)))
    rows[500:] = rows[rng.integers(0, 500, 400)]
    return rows


def crowds(rng: np.random.Generator) -> np.ndarray:
    """Hundreds of rows closer to each other than integer products can tell, but not equal."""
    rows = np.repeat(unit(rng.normal(size=(3, 40))), 300, axis=0)
    for row in rows:
        place = rng.integers(40)
        row[place] = np.nextafter(row[place], np.float16(rng.choice([-4, 4])))
    return rows[rng.permutation(900)]


def two_worlds(rng: np.random.Generator) -> np.ndarray:
    """Most rows in a few directions, which become the first axes; what tells the others apart stands in the last."""
    rows = rng.normal(size=(1000, 48)) * np.exp(-np.arange(48) / 6)
    rows[::9, :24] = 0
    rows[::9, 24:] = rng.normal(size=(112, 24))
    rows[::5, 24:] += 0.5 * rng.normal(size=(200, 24))
    return unit(rows @ np.linalg.qr(rng.normal(size=(48, 48)))[0])


LARGE = {
    "gaussian": lambda rng: unit(rng.normal(size=(1100, 33))),
    "clusters": clusters,
    "two worlds": two_worlds,
    "crowds": crowds,
    "all equal": lambda rng: np.repeat(unit(rng.normal(size=(1, 16))), 700, axis=0),
    "equal but for a few": lambda rng: unit(
        np.where(rng.random((800, 1)) < 0.95, np.ones((800, 8)), rng.normal(size=(800, 8)))
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_blocks_and_threads_do_not_change_a_bit(name: str, blocks: str) -> None:
    rng = np.random.default_rng(5)
    rows = LARGE[name](rng)
    groups = rng.integers(0, len(rows) // 4, len(rows))
    queries = unit(rows[::7] + 0.01 * rng.normal(size=rows[::7].shape))
    own, itself = exact_cosines(rows, rows), np.eye(len(rows), dtype=bool)
    for threads, k in [(1, 8), (2, 8), (2, 40)]:
        with torch_threads(threads):
            assert_same(top_k(rows, k), best_of(own, k, itself))
            alike = groups[:, None] == groups
            assert_same(top_k(rows, k, exclude=groups), best_of(own, k, alike))
            nothing = np.zeros((len(queries), len(rows)), dtype=bool)
            assert_same(top_k(rows, k, queries=queries), best_of(exact_cosines(queries, rows), k, nothing))


@pytest.mark.parametrize("name", ["two worlds", "gaussian"])
def test_products_end_early_where_nothing_can_be_reached(name: str) -> None:
    """Most of the work is spared where axes differ in weight, and the case above proves that it may be."""
    rows = LARGE[name](np.random.default_rng(5))
    prepared = prepared_rows.PreparedRows.of(rows)
    stops, tails = prepared.kernel.stops, prepared.kernel.tails
    assert len(stops) > 1
    assert stops[-1] * 2 >= rows.shape[1]
    assert (tails[-1] == 0).all()
    assert (tails[0, : len(rows)] > 0).all()
    few = prepared_rows.PreparedRows.of(rows[:100])
    assert few.basis.axes is None, "axes cost more than they spare"
    assert list(few.kernel.stops) == [stops[-1]]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_guess_that_fails_is_noticed_and_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order of similarity to the first rows, those rows meet all of their best at once and expect as many again."""
    angles = np.sort(np.random.default_rng(2).uniform(0.01, 1.5, 3000))
    rows = unit(np.stack([np.cos(angles), np.sin(angles), np.full(3000, 0.001)], axis=1))
    expected = best_of(exact_cosines(rows, rows), 40, np.eye(len(rows), dtype=bool))
    searches: list[int] = []
    search = nearest._Search

    def spy(queries: Any, *arguments: Any, guess: bool = True) -> Any:
        searches.append(-1 if guess else len(queries))
        return search(queries, *arguments, guess=guess)

    monkeypatch.setattr(nearest, "_Search", spy)
    assert_same(top_k(rows, 40), expected)
    assert searches == [-1], "rows come in random order, so hardly a guess fails"
    monkeypatch.setattr(prepared_rows, "_shuffled", lambda rows: rows)
    assert_same(top_k(rows, 40), expected)
    assert searches[1] == -1
    assert searches[2] > 100


def test_near_ties_would_mislead_a_plain_fp32_search() -> None:
    """The case above proves something: fp32 products alone get these rows wrong."""
    rows = near_ties(np.random.default_rng(11)).astype(np.float32)
    cosines = (rows @ rows.T) / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows, axis=1)[:, None]
    np.fill_diagonal(cosines, -np.inf)
    fast = np.argsort(-cosines, axis=1, kind="stable")[:, :7]
    assert (fast != top_k(rows.astype(np.float16), 7)[1]).any()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_queries_and_groups_follow_the_definition(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    values = st.sampled_from([0.0, 0.25, 0.5, 1.0, -0.5])
    dimension = data.draw(st.integers(1, 4))

    def draw_rows(least: int) -> np.ndarray:
        count = data.draw(st.integers(least, 12))
        rows = data.draw(
            st.lists(st.lists(values, min_size=dimension, max_size=dimension), min_size=count, max_size=count)
        )
        array = np.array(rows, dtype=np.float16).reshape(count, dimension)
        array[~array.any(axis=1)] = 1
        return array

    rows, queries, k = draw_rows(0), draw_rows(0), data.draw(st.integers(1, 14))
    groups, query_groups = rng.integers(0, 4, len(rows)), rng.integers(0, 4, len(queries))
    own, crossed = cosines_by_fsum(rows, rows), cosines_by_fsum(queries, rows)
    assert_same(top_k(rows, k), slow_top_k(own, k, lambda q, i: q != i))
    assert_same(top_k(rows, k, exclude=groups), slow_top_k(own, k, lambda q, i: groups[q] != groups[i]))
    assert_same(top_k(rows, k, queries=queries), slow_top_k(crossed, k, lambda *_: True))
    assert_same(
        top_k(rows, k, queries=queries, exclude=groups, exclude_queries=query_groups),
        slow_top_k(crossed, k, lambda q, i: query_groups[q] != groups[i]),
    )


def test_the_fast_product_alone_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers wrong by as much as is said leave the result as it is."""
    rng = np.random.default_rng(3)
    rows = unit(rng.normal(size=(600, 24)))
    expected = best_of(exact_cosines(rows, rows), 40, np.eye(len(rows), dtype=bool))
    prepare = prepared_rows.PreparedRows.of

    def wrong(*arguments: Any, **options: Any) -> prepared_rows.PreparedRows:
        prepared = prepare(*arguments, **options)
        kernel = prepared.kernel
        blocks, pairs, step = kernel.pairs.shape
        integers = kernel.pairs.transpose(0, 2, 1).reshape(blocks * step, pairs).view(np.int16)
        noise = np.where(integers != 0, rng.integers(-40, 41, integers.shape), 0).astype(np.int16)
        noisy = np.ascontiguousarray((integers + noise).astype(np.int16)).view(np.int32)
        kernel.pairs[:] = noisy.reshape(blocks, step, pairs).transpose(0, 2, 1)
        for stop, tails in zip(kernel.stops, kernel.tails, strict=True):
            behind = (integers + noise)[:, 2 * stop :].astype(np.float64)
            tails[:] = np.ceil(np.linalg.norm(behind, axis=1))
        error = prepared.error + float(np.linalg.norm(noise.astype(float), axis=1).max())
        return prepared_rows.PreparedRows(kernel, prepared.basis, error)

    monkeypatch.setattr(prepared_rows.PreparedRows, "of", wrong)
    assert_same(top_k(rows, 40), expected)
    assert_same(top_k(rows, 3), (expected[0][:, :3], expected[1][:, :3]))


def test_rows_that_tie_with_too_many_are_left_out_before() -> None:
    rows = np.repeat(np.eye(2, 5, dtype=np.float16), [50, 3], axis=0)
    np.testing.assert_array_equal(np.flatnonzero(~redundant_rows(rows, 4, None)), [0, 1, 2, 3, 50, 51, 52])
    groups = np.arange(53) // 2
    np.testing.assert_array_equal(np.flatnonzero(~redundant_rows(rows, 4, groups)), [0, 1, 2, 3, 4, 5, 50, 51, 52])


def test_groups_may_have_names() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(6, 4)))
    names = ["a.jpg", "a.jpg", "b.jpg", "b.jpg", "c.jpg", "c.jpg"]
    assert_same(top_k(rows, 3, exclude=names), top_k(rows, 3, exclude=[0, 0, 1, 1, 2, 2]))


def test_places_left_over_are_marked() -> None:
    rows = np.eye(3, dtype=np.float16)
    scores, ids = top_k(rows, 4, exclude=[0, 0, 1])
    np.testing.assert_array_equal(ids, [[2, -1, -1, -1], [2, -1, -1, -1], [0, 1, -1, -1]])
    np.testing.assert_array_equal(np.isneginf(scores), ids == -1)
    scores, ids = top_k(np.empty((0, 3), dtype=np.float16), 2)
    assert scores.shape == ids.shape == (0, 2)
    scores, ids = top_k(np.empty((0, 3), dtype=np.float16), 2, queries=rows)
    assert (ids == -1).all()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"k": 0}, "k=0"),
        ({"queries": np.ones((2, 4))}, "queries have 4 values"),
        ({"queries": np.zeros((1, 3))}, "queries: row 0 is all zeros"),
        ({"exclude": [1]}, r"exclude: found shape \(1,\)"),
        ({"exclude_queries": [1, 2]}, "without queries"),
        ({"queries": np.ones((2, 3)), "exclude": [1, 2, 3, 4]}, "exclude_queries is missing"),
        ({"queries": np.ones((2, 3)), "exclude_queries": [1, 2]}, "exclude is missing"),
        ({"queries": np.ones((2, 3)), "exclude": [1, 2, 3, 4], "exclude_queries": [1]}, "exclude_queries: found shape"),
    ],
)
def test_arguments_that_disagree_are_refused(arguments: dict[str, Any], found: str) -> None:
    with pytest.raises(ShapeError, match=found):
        top_k(np.ones((4, 3)), **{"k": 2, **arguments})


def test_golden() -> None:
    """Pins NEIGHBOURS_VERSION 1: raise the version with any change here."""
    rows = np.array([[1, 2, 3], [2, 3, 4], [-1, 0, 1], [3, 2, 1], [2, 4, 6]], dtype=np.float16) / np.float16(8)
    close, far = 20 / math.sqrt(14 * 29), 2 / math.sqrt(2 * 14)
    scores, ids = top_k(rows, 2)
    np.testing.assert_array_equal(ids, [[4, 1], [0, 4], [0, 4], [1, 0], [0, 1]])
    expected = [[1, close], [close, close], [far, far], [16 / math.sqrt(14 * 29), 10 / 14], [1, close]]
    np.testing.assert_array_equal(scores, np.array(expected, dtype=np.float32))
