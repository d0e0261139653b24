"""The cost model: its counts are those of loops and of the code, and its constants are the code's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.errors import ShapeError
from bcls_core.similarity import cost, ivf_fit, nearest, prepared_rows
from bcls_core.similarity.cost import AllPairs, InvertedFile
from bcls_core.similarity.label_tables import neighbours_table

ROWS = st.integers(1, 40)


@given(ROWS, st.integers(1, 9))
def test_products_are_those_of_loops(rows: int, dimension: int) -> None:
    pairs = AllPairs(rows, dimension, 3)
    once = sum(1 for _ in itertools.combinations(range(rows), 2))
    whole = sum(1 for _ in itertools.product(range(rows), range(rows)))
    assert (pairs.products(), pairs.products(symmetric=False)) == (once, whole)
    assert pairs.multiply_adds() == sum(dimension for _ in range(once))
    assert pairs.flop(symmetric=False) == 2 * dimension * whole


def test_flop_of_flickr30k_and_of_a_billion() -> None:
    assert AllPairs(155_070).flop() == 384 * 155_070 * 155_069
    assert AllPairs(10**9).flop(symmetric=False) == 768 * 10**18


@pytest.mark.parametrize("rows", [1, 4032, 4033, 10_000, 12_096])
def test_bytes_are_those_of_rows_that_meet_blocks(rows: int) -> None:
    blocks = [range(start, min(start + 4032, rows)) for start in range(0, rows, 4032)]
    for dimension in (7, 8):
        integers = 2 * (dimension + dimension % 2)
        pairs = AllPairs(rows, dimension)
        assert pairs.bytes_read(symmetric=False) == integers * rows * (1 + len(blocks))
        met = sum(block.stop for block in blocks)  # a block's rows and all before them
        assert pairs.bytes_read() == integers * (rows + met)


def test_a_byte_serves_half_a_block_of_columns() -> None:
    pairs = AllPairs(10**9)
    assert pairs.multiply_adds(symmetric=False) / pairs.bytes_read(symmetric=False) == pytest.approx(2016, rel=1e-4)
    assert pairs.multiply_adds() / pairs.bytes_read() == pytest.approx(2016, rel=1e-4)


def test_memory_of_all_rows() -> None:
    found = AllPairs(1000, 383, 50).memory()
    assert (found.rows, found.integers, found.results) == (1000 * 766, 1000 * 768, 1000 * 600)
    assert found.total == found.rows + found.integers + found.results + 80 * 1000 + cost.TILE_BYTES


def test_memory_of_a_shard() -> None:
    found = AllPairs(1000, 8, 50).memory(queries=10)
    assert (found.rows, found.integers, found.results) == (1010 * 16, 1010 * 16, 10 * 600)


def test_candidates_of_few_neighbours_need_room_of_their_own() -> None:
    enough, too_few = AllPairs(1000, 8, 32).memory(), AllPairs(1000, 8, 31).memory()
    assert too_few.beside - enough.beside == 1000 * 64 * 6


def test_constants_are_those_of_the_search() -> None:
    rooms = -(-nearest._MOST_ROWS // nearest._ROWS_OF_TASK)
    widest = 32  # columns of a panel, whatever the processor of this test has
    assert widest >= nearest.row_kernels.COLUMNS
    room = 12 * (nearest._ROOM + nearest._ROWS_OF_TASK * widest)
    tiles = rooms * room + prepared_rows._MOST_COLUMNS * 384 * 2
    assert prepared_rows._MOST_COLUMNS == cost.PANEL_COLUMNS
    assert nearest._LEAST_ROOM == cost.FEWEST_CANDIDATES
    assert 0.9 * cost.TILE_BYTES < tiles <= 1.1 * cost.TILE_BYTES
    assert (ivf_fit.SAMPLE_PER_CLUSTER, ivf_fit._ITERATIONS) == (cost.SAMPLE_PER_CLUSTER, cost.ITERATIONS)
    for rows in (1, 2, 90_382, 10**9):
        pairs = AllPairs(rows)
        assert InvertedFile.of(pairs, 32).clusters == ivf_fit.default_clusters(rows)


def test_output_is_that_of_the_table() -> None:
    ids = np.tile(np.arange(50, dtype=np.int64), (400, 1))
    table = neighbours_table("m", np.arange(400), ids, np.zeros((400, 50), dtype=np.float32))
    sizes = [sum(buffer.size for buffer in chunk.buffers() if buffer) for chunk in table.column("ids").chunks]
    sizes += [sum(buffer.size for buffer in chunk.buffers() if buffer) for chunk in table.column("scores").chunks]
    sizes += [table.column("id").nbytes]
    assert AllPairs(400, 8, 50).output_bytes() == pytest.approx(sum(sizes), rel=0.01)


@given(ROWS, st.integers(1, 40), st.integers(1, 40))
def test_products_of_an_inverted_file(rows: int, clusters: int, probes: int) -> None:
    if not probes <= clusters <= rows or rows % clusters:
        return
    found = InvertedFile(AllPairs(rows, 2), clusters, probes)
    searched = 0
    for _ in range(rows):
        searched += clusters
        searched += sum(rows // clusters for _ in range(probes))
    assert found.search_products() == searched
    assert found.fit_products() == clusters * (10 * min(rows, 64 * clusters) + rows)
    assert found.flop() == 2 * 2 * (found.fit_products() + searched)


def test_uneven_clusters_cost_more_and_never_more_than_all_rows() -> None:
    pairs = AllPairs(10_000)
    even, uneven, all_of_them = (InvertedFile(pairs, 100, 10, unevenness) for unevenness in (1, 2, 1000))
    assert uneven.search_products() - even.search_products() == 10_000 * 1000
    assert all_of_them.search_products() == 10_000 * (100 + 10_000)


def test_time_is_work_over_rate() -> None:
    assert cost.seconds(6e12, 2e12) == 3
    assert cost.hours(7200e9, 1e9) == 2
    assert cost.rate_of_cores(3e9, 2, 64) == 96e9


@given(st.floats(1, 1e9), st.floats(1e3, 1e15), st.integers(1, 2000), st.booleans())
def test_most_rows_fit_and_one_more_does_not(time: float, rate: float, dimension: int, symmetric: bool) -> None:
    rows = cost.most_rows(time, rate, dimension, symmetric=symmetric)
    if rows:
        flop = AllPairs(rows, dimension).flop(symmetric=symmetric)
        assert flop <= time * rate * (1 + 1e-12)
    assert AllPairs(rows + 1, dimension).flop(symmetric=symmetric) > time * rate * (1 - 1e-12)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-5, 384, 100)])
def test_nothing_is_no_problem(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ShapeError, match="must be at least 1"):
        AllPairs(*numbers)


@pytest.mark.parametrize("wrong", [(100, 5, 6, 1.0), (100, 101, 1, 1.0), (100, 10, 0, 1.0), (100, 10, 2, 0.5)])
def test_impossible_clusters(wrong: tuple[int, int, int, float]) -> None:
    rows, clusters, probes, unevenness = wrong
    with pytest.raises(ShapeError, match="expected 1 <= probes <= clusters <= rows"):
        InvertedFile(AllPairs(rows), clusters, probes, unevenness)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_must_be_positive(rate: float) -> None:
    with pytest.raises(ShapeError, match="must be positive"):
        cost.seconds(1, rate)


def test_cores_and_queries_must_be_there() -> None:
    with pytest.raises(ShapeError, match="0 measured cores"):
        cost.rate_of_cores(1e9, 0, 64)
    with pytest.raises(ShapeError, match="queries=0"):
        AllPairs(10).memory(queries=0)
