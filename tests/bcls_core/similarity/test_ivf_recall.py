"""Recall by its definition, its interval against scipy and by simulation, and the floor."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bcls_core.errors import GateError, ShapeError
from bcls_core.similarity import top_k
from bcls_core.similarity.ivf import IvfPlan
from bcls_core.similarity.ivf_recall import (
    Recall,
    exact_neighbours,
    mean_interval,
    measure_recall,
    recall_of,
    require_recall,
)

INF = math.inf


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def as_lists(rows: list[list[tuple[float, int]]]) -> tuple[np.ndarray, np.ndarray]:
    scores, ids = np.moveaxis(np.array(rows, dtype=np.float64), 2, 0)
    return scores.astype(np.float32), ids.astype(np.int64)


def test_what_counts_as_right() -> None:
    exact = as_lists(
        [
            [(0.9, 4), (0.8, 1), (0.8, 2)],
            [(0.9, 4), (0.8, 1), (0.8, 2)],
            [(0.9, 4), (0.8, 1), (-INF, -1)],
            [(-INF, -1)] * 3,
        ]
    )
    found = as_lists(
        [
            [(0.9, 4), (0.8, 5), (0.8, 6)],  # rows that tie with the last are as good as it
            [(0.8, 2), (0.7, 9), (-INF, -1)],
            [(0.8, 1), (-INF, -1), (-INF, -1)],  # of two that exist
            [(-INF, -1)] * 3,  # nothing to find
        ]
    )
    measured = recall_of(*found, *exact)
    assert measured.recall == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert (measured.rows, measured.k, measured.confidence) == (3, 3, 0.95)
    assert 0 <= measured.low < measured.recall < measured.high <= 1


@given(st.integers(0, 2**20), st.integers(1, 6), st.integers(1, 12), st.integers(0, 15))
def test_recall_is_the_mean_over_rows_of_the_share_found(seed: int, k: int, queries: int, count: int) -> None:
    """Scores of few values, so that ties abound; the search sees only some of the rows."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 4, size=(queries, count)) / 4
    seen = rng.random((queries, count)) < 0.6

    def best(query: int, rows: list[int]) -> list[tuple[float, int]]:
        ranked = sorted((-table[query, row], row) for row in rows)[:k]
        return [(-score, row) for score, row in ranked] + [(-INF, -1)] * (k - len(ranked))

    exact = [best(query, list(range(count))) for query in range(queries)]
    found = [best(query, [row for row in range(count) if seen[query, row]]) for query in range(queries)]
    measured = recall_of(*as_lists(found), *as_lists(exact))
    if not count:
        assert (measured.recall, measured.low, measured.high, measured.rows) == (1, 0, 1, 0)
        return
    shares = []
    for query in range(queries):
        there = [row for score, row in exact[query] if row >= 0]
        worst = min(table[query, row] for row in there)
        good = [row for _, row in found[query] if row >= 0 and table[query, row] >= worst]
        shares.append(len(good) / len(there))
    assert measured.recall == pytest.approx(sum(shares) / len(shares))
    assert measured.rows == queries


@pytest.mark.parametrize(("right", "rows"), [(0, 20), (1, 20), (17, 20), (990, 1000), (1000, 1000)])
def test_of_yes_and_no_the_interval_is_wilsons(right: int, rows: int) -> None:
    values = np.repeat([1.0, 0.0], [right, rows - right])
    for confidence in (0.9, 0.95):
        expected = stats.binomtest(right, rows).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose(mean_interval(values, confidence), expected, atol=1e-12)


SHAPES: dict[str, tuple[float, Callable[[np.random.Generator, int], np.ndarray]]] = {
    "some missed everywhere": (0.97, lambda rng, n: rng.binomial(32, rng.beta(9.7, 0.3, n), n) / 32),
    "all or nothing": (0.99, lambda rng, n: (rng.random(n) < 0.99).astype(float)),
    "few rows by half": (0.995, lambda rng, n: np.where(rng.random(n) < 0.01, 0.5, 1.0)),
    "few lost altogether": (0.998 * 0.98, lambda rng, n: (rng.random(n) < 0.998) * rng.binomial(32, 0.98, n) / 32),
    "poor": (0.75, lambda rng, n: np.where(rng.random(n) < 0.5, rng.integers(0, 33, n) / 32, 1.0)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [200, 1000])
def test_the_interval_holds_the_truth_as_often_as_it_says(shape: str, rows: int) -> None:
    truth, draw = SHAPES[shape]
    rng = np.random.default_rng(1)
    intervals = np.array([mean_interval(draw(rng, rows), 0.95) for _ in range(2000)])
    held = np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
    assert held >= 0.935  # chance alone: a standard error of 0.005
    assert np.mean(intervals[:, 0] > truth) <= 0.04


def plan_and_rows() -> tuple[IvfPlan, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    centres = unit(rng.normal(size=(6, 16)))
    rows = unit(centres[rng.integers(0, 6, 300)] + 0.25 * rng.normal(size=(300, 16)))
    of = (rows.astype(np.float64) @ centres.T.astype(np.float64)).argmax(axis=1)
    order = np.argsort(of, kind="stable")
    return IvfPlan(centres, order, np.searchsorted(of[order], np.arange(7))), rows, np.arange(300) // 5


def test_recall_is_measured_against_the_exact_result() -> None:
    plan, rows, images = plan_and_rows()
    exact = top_k(rows, 8, exclude=images)
    for probes in (1, 2, 6):
        found = plan.search(rows, 8, probes=probes, exclude=images)
        shares = [
            np.mean([row in exact[1][q] or score == exact[0][q, -1] for score, row in zip(*lists, strict=True)])
            for q, lists in enumerate(zip(*found, strict=True))
        ]
        measured = measure_recall(plan, rows, 8, probes=probes, sample=1000, exclude=images)
        assert measured.recall == pytest.approx(np.mean(shares))
        assert (measured.rows, measured.recall == 1) == (300, probes == 6)


def test_a_sample_repeats_by_its_seed() -> None:
    plan, rows, images = plan_and_rows()
    first, again, other = (
        measure_recall(plan, rows, 8, probes=1, sample=40, seed=seed, exclude=images) for seed in (3, 3, 4)
    )
    assert first == again != other
    assert first.rows == 40
    whole = measure_recall(plan, rows, 8, probes=1, exclude=images).recall
    assert first.low < whole < first.high


def test_exact_neighbours_are_those_of_top_k() -> None:
    _, rows, images = plan_and_rows()
    scores, ids = top_k(rows, 70, exclude=images)
    panel = np.array([7, 299, 0, 7])
    for most_rows in (1000, 64):
        found = exact_neighbours(rows, 70, panel, exclude=images, most_rows=most_rows)
        np.testing.assert_array_equal(found[1], ids[panel])
        assert found[0].tobytes() == scores[panel].tobytes()


def test_without_rows_there_is_nothing_to_find() -> None:
    nothing = IvfPlan(np.empty((0, 4), np.float16), np.empty(0, np.int64), np.zeros(1, np.int64))
    measured = measure_recall(nothing, np.empty((0, 4), np.float16), 5)
    assert measured == Recall(recall=1.0, low=0.0, high=1.0, rows=0, k=5, confidence=0.95)
    require_recall(measured, 0.95, "minilm, test")


def test_the_floor_is_for_the_lower_end() -> None:
    measured = Recall(recall=0.96, low=0.953, high=0.966, rows=1000, k=32, confidence=0.95)
    require_recall(measured, 0.953, "minilm, train")
    with pytest.raises(GateError, match=r"minilm, train: .*0\.9600 of the 32 nearest.*floor is 0\.954") as caught:
        require_recall(measured, 0.954, "minilm, train")
    assert caught.value.exit_code == 3
    assert measured.as_dict() == {
        "recall": 0.96, "low": 0.953, "high": 0.966, "rows": 1000, "k": 32, "confidence": 0.95
    }  # fmt: skip


def test_arguments_that_disagree_are_refused() -> None:
    scores, ids = np.ones((2, 3), np.float32), np.ones((2, 3), np.int64)
    with pytest.raises(ShapeError, match=r"\(2, 2\)"):
        recall_of(scores[:, :2], ids[:, :2], scores, ids)
    plan, rows, _ = plan_and_rows()
    with pytest.raises(ShapeError, match="sample=0"):
        measure_recall(plan, rows, 3, sample=0)
