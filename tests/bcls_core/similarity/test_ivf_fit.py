"""Plans made by k-means: every row filed once, no cluster too large, the same from any number of threads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.similarity.ivf import IvfPlan
from bcls_core.similarity.ivf_fit import default_clusters, fit_ivf

faiss = pytest.importorskip("faiss", reason="faiss is missing: pip install 'bcls[ann]'")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def groups_of(sizes: list[int], spread: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around well separated centres, shuffled, and the centre of each."""
    rng = np.random.default_rng(seed)
    of = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = rng.normal(size=(len(sizes), 24))
    return unit(centres[of] + spread * rng.normal(size=(len(of), 24))), of


def assert_files_each_row_once(plan: IvfPlan, rows: np.ndarray) -> None:
    members = [plan.order[a:b] for a, b in zip(plan.starts[:-1], plan.starts[1:], strict=True)]
    assert all(len(part) and (np.diff(part) > 0).all() for part in members)
    assert sorted(np.concatenate([*members, np.empty(0, int)]).tolist()) == list(range(len(rows)))
    assert plan.centroids.shape == (len(members), rows.shape[1])
    assert plan.centroids.dtype == np.float16
    assert np.isfinite(plan.centroids).all()
    assert plan.centroids.any(axis=1).all()


def assert_same_plan(a: IvfPlan, b: IvfPlan) -> None:
    assert a.centroids.tobytes() == b.centroids.tobytes()
    np.testing.assert_array_equal(a.order, b.order)
    np.testing.assert_array_equal(a.starts, b.starts)


def test_each_row_is_filed_under_the_centroid_nearest_to_it() -> None:
    rows = unit(np.random.default_rng(3).normal(size=(900, 24)))
    plan = fit_ivf(rows, clusters=20)
    assert_files_each_row_once(plan, rows)
    assert len(plan.centroids) == 20
    wide, centroids = rows.astype(np.float64), plan.centroids.astype(np.float64)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    nearest = (wide @ centroids.T).argmax(axis=1)
    np.testing.assert_array_equal(nearest[plan.order], np.repeat(np.arange(20), plan.sizes))


def test_groups_that_lie_apart_share_no_cluster() -> None:
    rows, of = groups_of([400, 90, 100, 250, 80])
    plan = fit_ivf(rows, clusters=30)
    assert_files_each_row_once(plan, rows)
    for start, end in zip(plan.starts[:-1], plan.starts[1:], strict=True):
        assert len(set(of[plan.order[start:end]])) == 1


@pytest.mark.parametrize("clusters", [1, 2, 9])
def test_large_clusters_are_split_until_none_is_too_large(clusters: int) -> None:
    rows, _ = groups_of([1500, 80, 20, 4])
    assert fit_ivf(rows, clusters=clusters).sizes.max() > 150
    plan = fit_ivf(rows, clusters=clusters, most_rows=150)
    assert_files_each_row_once(plan, rows)
    assert plan.sizes.max() <= 150
    wide = rows.astype(np.float64)
    of = np.repeat(np.arange(len(plan.centroids)), plan.sizes)
    own = (wide[plan.order] * plan.centroids.astype(np.float64)[of]).sum(axis=1)
    norms = np.linalg.norm(plan.centroids.astype(np.float64), axis=1)
    assert np.mean(own / norms[of]) > 0.95


def test_rows_that_are_equal_stay_together_and_are_walked_through_in_pieces() -> None:
    rows = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 24))), 500, axis=0)
    plan = fit_ivf(rows, clusters=8, most_rows=100)
    assert_files_each_row_once(plan, rows)
    assert plan.sizes.tolist() == [500]
    assert [len(piece) for piece in plan.pieces(0, 100)] == [100] * 5
    np.testing.assert_array_equal(plan.search(rows, 3, most_rows=100)[1][:2], [[1, 2, 3], [0, 2, 3]])


def test_splits_that_part_with_few_rows_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each split of these leaves all rows but one together."""
    rows = np.eye(60, dtype=np.float16)
    peeled = 0

    def peel(_: Any, sample: np.ndarray, *__: Any) -> np.ndarray:
        nonlocal peeled
        peeled += 1
        rest = sample.sum(axis=0)
        first = np.zeros_like(rest)
        first[rest.argmax()] = 1
        return np.stack([rest - first, first])

    monkeypatch.setitem(fit_ivf.__globals__, "_k_means", peel)
    plan = fit_ivf(rows, clusters=2, most_rows=2)
    assert_files_each_row_once(plan, rows)
    assert peeled == 17
    assert plan.sizes.max() == 60 - 17


def test_fewer_rows_than_clusters() -> None:
    rows = unit(np.random.default_rng(1).normal(size=(5, 24)))
    plan = fit_ivf(rows, clusters=50)
    assert_files_each_row_once(plan, rows)
    assert len(plan.centroids) <= 5
    assert (plan.search(rows, 9, probes=50)[1] >= 0).sum() == 5 * 4


def test_one_cluster_one_row_no_row() -> None:
    rows, _ = groups_of([30, 30])
    assert fit_ivf(rows, clusters=1).sizes.tolist() == [60]
    assert fit_ivf(rows[:1]).sizes.tolist() == [1]
    plan = fit_ivf(rows[:0])
    assert plan.centroids.shape == (0, 24)
    assert plan.starts.tolist() == [0]


def test_opposite_rows_have_a_centroid_with_a_direction() -> None:
    row = unit(np.random.default_rng(2).normal(size=(1, 24)))
    rows = np.concatenate([row, -row])
    plan = fit_ivf(rows, clusters=1)
    assert_files_each_row_once(plan, rows)


def test_threads_do_not_change_a_bit() -> None:
    rows = unit(np.random.default_rng(4).normal(size=(3000, 48)))
    torch_before, faiss_before = torch.get_num_threads(), faiss.omp_get_max_threads()
    plans = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        np.random.seed(threads)
        with threadpool_limits(threads):
            plans.append(fit_ivf(rows, most_rows=60))
    torch.set_num_threads(torch_before)
    faiss.omp_set_num_threads(faiss_before)
    assert_same_plan(*plans)


def test_k_means_runs_on_one_thread_and_leaves_the_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    train = faiss.Kmeans.train
    monkeypatch.setattr(
        faiss.Kmeans, "train", lambda self, rows: (threads.append(faiss.omp_get_max_threads()), train(self, rows))
    )
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    fit_ivf(unit(np.random.default_rng(4).normal(size=(300, 48))))
    after = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before)
    assert threads == [1]
    assert after == 2


def test_the_seed_and_the_sample_matter_and_repeat() -> None:
    rows = unit(np.random.default_rng(4).normal(size=(2000, 24)))
    assert_same_plan(fit_ivf(rows, seed=7, sample=500), fit_ivf(rows.copy(), seed=7, sample=500))
    for other in (fit_ivf(rows, seed=8, sample=500), fit_ivf(rows, seed=7, sample=600)):
        assert other.centroids.tobytes() != fit_ivf(rows, seed=7, sample=500).centroids.tobytes()


def test_blocks_and_mapped_files_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = groups_of([300, 40, 7])
    expected = fit_ivf(rows)
    np.save(tmp_path / "rows.npy", rows)
    monkeypatch.setitem(fit_ivf.__globals__, "_ROWS_AT_ONCE", 64)
    assert_same_plan(fit_ivf(np.load(tmp_path / "rows.npy", mmap_mode="r")), expected)


def test_the_default_is_the_square_root() -> None:
    assert [default_clusters(rows) for rows in (0, 1, 100, 155_070)] == [1, 1, 10, 394]
    assert len(fit_ivf(unit(np.random.default_rng(0).normal(size=(400, 24)))).centroids) == 20


@pytest.mark.parametrize("number", ["clusters", "most_rows", "sample"])
def test_numbers_below_one_are_refused(number: str) -> None:
    with pytest.raises(ShapeError, match=f"{number}=0"):
        fit_ivf(np.ones((4, 3)), **{number: 0})


@pytest.mark.parametrize(("value", "found"), [(0, "all zeros"), (np.nan, "NaN")])
def test_rows_without_a_direction_are_refused(value: float, found: str) -> None:
    rows = np.ones((9, 3), dtype=np.float16)
    rows[5] = value
    with pytest.raises(ShapeError, match=f"rows 0 to 8.*row 5 .*{found}"):
        fit_ivf(rows, clusters=2)


def test_a_missing_faiss_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'bcls\[ann\]'") as caught:
        fit_ivf(np.ones((4, 3)))
    assert caught.value.exit_code == 2
