"""Searches of made-up plans against a search that walks through every row of the clusters it may look at."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from bcls_core.errors import ShapeError, StoreError
from bcls_core.similarity import top_k
from bcls_core.similarity.ivf import IvfPlan

Result = tuple[np.ndarray, np.ndarray]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def filed(centroids: np.ndarray, cluster_of: np.ndarray) -> IvfPlan:
    """Any filing is a plan, good or bad; clusters may be empty."""
    counts = [sum(1 for other in cluster_of if other == cluster) for cluster in range(len(centroids))]
    order = [row for cluster in range(len(centroids)) for row in range(len(cluster_of)) if cluster_of[row] == cluster]
    starts = np.array([sum(counts[:cluster]) for cluster in range(len(centroids) + 1)])
    return IvfPlan(centroids, np.array(order, dtype=np.int64), starts)


def cosine(a: np.ndarray, b: np.ndarray) -> np.float32:
    def dot(x: np.ndarray, y: np.ndarray) -> float:
        return math.fsum(x.astype(np.float64) * y.astype(np.float64))

    return np.float32(dot(a, b) / (math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))))


def slow_search(
    plan: IvfPlan, rows: np.ndarray, k: int, probes: int, queries: np.ndarray, may_meet: Any
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for q, query in enumerate(queries):
        near = sorted((-cosine(query, centroid), c) for c, centroid in enumerate(plan.centroids))[:probes]
        seen = [int(i) for _, c in near for i in plan.order[plan.starts[c] : plan.starts[c + 1]]]
        found = sorted((-float(cosine(query, rows[i])), i) for i in seen if may_meet(q, i))
        for place, (negative, i) in enumerate(found[:k]):
            scores[q, place], ids[q, place] = -negative, i
    return scores, ids


def assert_same(found: Result, expected: Result) -> None:
    np.testing.assert_array_equal(found[1], expected[1])
    assert (found[0] + np.float32(0)).tobytes() == (expected[0] + np.float32(0)).tobytes()
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_search_is_its_definition(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    dimension, clusters = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))

    def draw_rows(least: int, most: int) -> np.ndarray:
        array = rng.integers(-2, 3, size=(data.draw(st.integers(least, most)), dimension)).astype(np.float16)
        array[~array.any(axis=1)] = 1
        return array

    rows, queries, centroids = draw_rows(0, 20), draw_rows(0, 6), draw_rows(clusters, clusters)
    plan = filed(centroids, rng.integers(0, clusters, len(rows)))
    k, probes = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 8))
    options = {"probes": probes, "most_rows": data.draw(st.integers(1, 9))}
    groups, query_groups = rng.integers(0, 4, len(rows)), rng.integers(0, 4, len(queries))
    panel = rng.integers(0, len(rows), size=data.draw(st.integers(0, 9)) if len(rows) else 0)

    def expected(vectors: np.ndarray, may_meet: Any) -> Result:
        return slow_search(plan, rows, k, probes, vectors, may_meet)

    assert_same(plan.search(rows, k, queries=queries, **options), expected(queries, lambda *_: True))
    assert_same(
        plan.search(rows, k, queries=queries, exclude=groups, exclude_queries=query_groups, **options),
        expected(queries, lambda q, i: query_groups[q] != groups[i]),
    )
    assert_same(plan.search(rows, k, **options), expected(rows, lambda q, i: q != i))
    assert_same(plan.search(rows, k, panel=panel, **options), expected(rows[panel], lambda q, i: panel[q] != i))
    assert_same(
        plan.search(rows, k, panel=panel, exclude=groups, **options),
        expected(rows[panel], lambda q, i: groups[panel[q]] != groups[i]),
    )


def clustered(count: int, clusters: int, seed: int = 5) -> tuple[np.ndarray, IvfPlan]:
    """Rows around centres, most of them around the first few, many twice; each filed under its own centre."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(clusters, 32)))
    of = np.minimum(rng.geometric(0.3, size=count) - 1, clusters - 1)
    of[count // 2 :] = of[: count - count // 2]
    rows = unit(centres[of] + 0.1 * rng.normal(size=(count, 32)))
    rows[count // 2 :] = rows[: count - count // 2]
    return rows, filed(centres, of)


def test_looking_everywhere_is_exact() -> None:
    rows, plan = clustered(700, 12)
    assert plan.sizes.max() > 20 * plan.sizes.min()
    groups = np.arange(700) // 5
    assert_same(plan.search(rows, 9, probes=12, exclude=groups), top_k(rows, 9, exclude=groups))
    assert_same(plan.search(rows, 9, probes=1000, queries=rows[:30]), top_k(rows, 9, queries=rows[:30]))


def test_panels_blocks_pieces_and_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, plan = clustered(600, 10)
    expected = plan.search(rows, 7, probes=3)
    panel = np.random.default_rng(0).permutation(600)
    for start in range(0, 600, 170):
        part = panel[start : start + 170]
        assert_same(plan.search(rows, 7, probes=3, panel=part), (expected[0][part], expected[1][part]))
    monkeypatch.setitem(IvfPlan.search.__globals__, "_PLACES", 1000)
    monkeypatch.setitem(IvfPlan.search.__globals__, "_MERGED_AT_ONCE", 100)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            assert_same(plan.search(rows, 7, probes=3, most_rows=50), expected)
    torch.set_num_threads(before)


def test_only_clusters_that_are_probed_are_looked_at(tmp_path: Path) -> None:
    rows, plan = clustered(200, 4)
    own = plan.order[: plan.starts[1]]
    broken = rows.copy()
    broken[plan.order[plan.starts[1] :]] = np.nan
    np.save(tmp_path / "rows.npy", broken)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    scores, ids = plan.search(mapped, 5, probes=1, panel=own)
    assert np.isin(ids, own).all()
    assert_same((scores, ids), plan.search(rows, 5, probes=1, panel=own))
    with pytest.raises(ShapeError, match="NaN"):
        plan.search(mapped, 5, probes=2, panel=own)


def test_a_cluster_that_exclusion_empties_gives_nothing() -> None:
    rows = unit(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]))
    plan = filed(rows[[0, 2]], np.array([0, 0, 1, 1]))
    images = ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    scores, ids = plan.search(rows, 2, probes=1, exclude=images)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    np.testing.assert_array_equal(plan.search(rows, 2, probes=2, exclude=images)[1], [[3, 2], [3, 2], [1, 0], [1, 0]])


def test_equal_rows_in_many_clusters_go_to_the_lower_number() -> None:
    rows = np.repeat(unit(np.array([[0.6, 0.8]])), 30, axis=0)
    plan = filed(rows[:5], np.random.default_rng(1).permutation(30) % 5)
    scores, ids = plan.search(rows, 4, probes=5, most_rows=2)
    assert (scores == 1).all()
    np.testing.assert_array_equal(ids[0], [1, 2, 3, 4])
    np.testing.assert_array_equal(ids[20], [0, 1, 2, 3])


def test_nothing_to_look_for_or_in() -> None:
    rows, plan = clustered(50, 3)
    assert plan.search(rows, 6, panel=[])[1].shape == (0, 6)
    assert plan.search(rows, 6, queries=rows[:0])[0].shape == (0, 6)
    nothing = filed(rows[:0], np.empty(0, dtype=np.int64))
    assert (nothing.search(rows[:0], 3, queries=rows[:2])[1] == -1).all()
    assert nothing.search(rows[:0], 3)[1].shape == (0, 3)
    emptied = filed(rows[:2], np.empty(0, dtype=np.int64))
    assert (emptied.search(rows[:0], 3, queries=rows[:2])[1] == -1).all()


@pytest.mark.parametrize("count", [0, 60])
def test_a_plan_survives_being_a_table(count: int, tmp_path: Path) -> None:
    rows, plan = clustered(count, 7) if count else (np.empty((0, 32), np.float16), filed(np.empty((0, 32)), []))
    plan = IvfPlan(plan.centroids.astype(np.float16), plan.order, plan.starts)
    table = plan.to_table()
    assert table.num_rows == len(plan.centroids)
    pq.write_table(table.take(np.random.default_rng(0).permutation(table.num_rows)), tmp_path / "plan.parquet")
    again = IvfPlan.from_table(pq.read_table(tmp_path / "plan.parquet"))
    assert again.centroids.tobytes() == plan.centroids.tobytes()
    np.testing.assert_array_equal(again.order, plan.order)
    np.testing.assert_array_equal(again.starts, plan.starts)
    for array, dtype in ((again.centroids, np.float16), (again.order, np.int64), (again.starts, np.int64)):
        assert array.dtype == dtype
    assert_same(again.search(rows, 5, probes=2), plan.search(rows, 5, probes=2))


def test_a_table_that_lacks_rows_is_refused() -> None:
    _, plan = clustered(60, 7)
    with pytest.raises(StoreError, match="Make the labels again"):
        IvfPlan.from_table(plan.to_table().slice(1))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"k": 0}, "k=0"),
        ({"probes": 0}, "probes=0"),
        ({"most_rows": 0}, "most_rows=0"),
        ({"rows": np.ones((49, 32), np.float16)}, r"shape \(49, 32\), but the plan files 50 rows of 32"),
        ({"rows": np.ones((50, 31), np.float16)}, "Search the rows that it was fitted to"),
        ({"queries": np.ones((2, 4))}, "queries have 4 values"),
        ({"queries": np.ones((2, 32)), "panel": [1]}, "queries and a panel"),
        ({"panel": [50]}, "expected numbers below 50"),
        ({"panel": [-1]}, "found rows -1 to -1"),
        ({"panel": [0.5]}, "found float64"),
        ({"panel": [[1]]}, r"shape \(1, 1\)"),
        ({"exclude": [1]}, r"exclude: found shape \(1,\)"),
        ({"exclude_queries": [1]}, "without queries"),
        ({"queries": np.ones((1, 32)), "exclude": np.ones(50)}, "exclude_queries is missing"),
    ],
)
def test_arguments_that_disagree_are_refused(arguments: dict[str, Any], found: str) -> None:
    rows, plan = clustered(50, 3)
    with pytest.raises(ShapeError, match=found):
        plan.search(**{"rows": rows, "k": 2, **arguments})


def test_a_search_needs_no_faiss() -> None:
    """Nodes that only search a plan need not have it."""
    code = (
        "import sys; sys.modules['faiss'] = None; import numpy as np; from bcls_core.similarity.ivf_fit import IvfPlan;"
        "import bcls_core.similarity.ivf_recall;"
        "rows = np.eye(3, dtype=np.float16); print(IvfPlan(rows, np.arange(3), np.arange(4)).search(rows, 2)[1][0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[1", "2]"]


def test_golden() -> None:
    """Pins what a search finds at IVF_VERSION 1: raise the version with any change here."""
    rows = np.array([[1, 2, 3], [2, 3, 4], [-1, 0, 1], [3, 2, 1], [2, 4, 6]], dtype=np.float16) / np.float16(8)
    plan = filed(rows[[0, 3]], np.array([0, 0, 1, 1, 0]))
    scores, ids = plan.search(rows, 2, probes=1)
    np.testing.assert_array_equal(ids, [[4, 1], [0, 4], [0, 4], [2, -1], [0, 1]])
    close, far = 20 / math.sqrt(14 * 29), 2 / math.sqrt(2 * 14)
    apart = -2 / math.sqrt(2 * 14)
    expected = [[1, close], [close, close], [far, far], [apart, -np.inf], [1, close]]
    np.testing.assert_array_equal(scores, np.array(expected, dtype=np.float32))
