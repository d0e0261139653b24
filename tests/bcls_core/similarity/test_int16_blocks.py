"""One block of integer products, in the shape of this processor and in shapes of others, against numpy."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from bcls_core.similarity.int16_blocks import LEAST_FLOOR, MOST_FLOOR, STEP, Shape, block_of, shape_of_host

SHAPES = {
    "host": shape_of_host(),
    "without instructions of its own": Shape(rows=4, vectors=2, lanes=8, pairwise=None),
    "wide": Shape(rows=12, vectors=2, lanes=16, pairwise=None),
}
STOPS = np.array([2 * STEP, 5 * STEP, 6 * STEP])


def caller(shape: Shape) -> Any:
    block = block_of(shape)

    @numba.njit
    def call(rows, place, row_tails, row_floors, packed, panel, tails, column, floors, floor, stops, sums, hits):  # type: ignore[no-untyped-def]
        return block(rows, place, row_tails, row_floors, packed, panel, tails, column, floors, floor, stops, sums, hits)

    return call


def tails_of(values: np.ndarray) -> np.ndarray:
    """(stops, rows) norms of what is behind each stop, rounded up."""
    behind = [np.linalg.norm(values[:, 2 * stop :].astype(np.float64), axis=1) for stop in STOPS]
    return np.ceil(behind).astype(np.int32)


def rows_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Integer rows as long as they may be, most of it in the first values."""
    values = rng.standard_normal((count, 2 * STOPS[-1])) * np.exp(-np.arange(2 * STOPS[-1]) / 9)
    return np.rint(values / np.linalg.norm(values, axis=1, keepdims=True) * 32_000).astype(np.int16)


def in_panels(values: np.ndarray, width: int) -> np.ndarray:
    pairs = np.ascontiguousarray(values).view(np.int32)
    return np.ascontiguousarray(pairs.reshape(-1, width, pairs.shape[1]).transpose(0, 2, 1))


@pytest.mark.parametrize("name", SHAPES)
def test_what_reaches_a_floor_is_found_and_nothing_else(name: str) -> None:
    shape, rng = SHAPES[name], np.random.default_rng(4)
    call = caller(shape)
    a, b = rows_of(rng, 3 * shape.rows), rows_of(rng, 4 * shape.columns)
    products = a.astype(np.int64) @ b.T.astype(np.int64)
    rows, packed, row_tails, column_tails = (
        in_panels(a, shape.rows), in_panels(b, shape.columns), tails_of(a), tails_of(b)
    )  # fmt: skip
    ends = set()
    for quantile in (0.2, 0.9, 0.99, 1.0):
        others = np.full(len(b), MOST_FLOOR, dtype=np.int32)
        if quantile == 1.0:  # a little more than any
            floors = np.full(len(a), products.max() + 1, dtype=np.int32)
        else:
            floors = np.quantile(products, quantile, axis=1).astype(np.int32)
            others[::5] = np.quantile(products[:, ::5], 0.95)
        floors[3], others[7] = MOST_FLOOR, LEAST_FLOOR if quantile == 0.2 else MOST_FLOOR
        for place in range(3):
            for panel in range(4):
                sums = np.zeros(shape.rows * shape.columns, dtype=np.int32)
                hits = np.zeros(shape.rows, dtype=np.uint32)
                own = slice(place * shape.rows, (place + 1) * shape.rows)
                column = panel * shape.columns
                theirs = slice(column, column + shape.columns)
                found = call(
                    rows, place, row_tails, floors, packed, panel, column_tails, column, others[2:], column - 2, STOPS,
                    sums, hits,
                )  # fmt: skip
                reached = products[own, theirs] >= np.minimum(floors[own, None], others[theirs])
                assert found == reached.any()
                ends.add(found)
                if found:
                    np.testing.assert_array_equal(sums.reshape(shape.rows, -1), products[own, theirs])
                    bits = (hits[:, None] >> np.arange(shape.columns, dtype=np.uint32)) & 1
                    np.testing.assert_array_equal(bits.astype(bool), reached)
                else:
                    assert not sums.any()
                    assert not hits.any()
    assert ends == {0, 1}


def test_products_at_the_limit_do_not_overflow() -> None:
    """Equal and opposite rows of the largest norm, against floors that everything and nothing reaches."""
    shape = shape_of_host()
    call = caller(shape)
    values = np.zeros((shape.rows, 2 * STOPS[-1]), dtype=np.int16)
    values[:, 0] = 32_760
    values[1::2, 0] = -32_760
    columns = np.zeros((shape.columns, 2 * STOPS[-1]), dtype=np.int16)
    columns[:, 0] = 32_760
    for floor, expected in ((LEAST_FLOOR, 1), (MOST_FLOOR, 0)):
        sums = np.zeros(shape.rows * shape.columns, dtype=np.int32)
        hits = np.zeros(shape.rows, dtype=np.uint32)
        floors = np.full(shape.rows, floor, dtype=np.int32)
        others = np.full(shape.columns, floor, dtype=np.int32)
        found = call(
            in_panels(values, shape.rows), 0, tails_of(values), floors, in_panels(columns, shape.columns), 0,
            tails_of(columns), 0, others, 0, STOPS, sums, hits,
        )  # fmt: skip
        assert found == expected
        if found:
            assert set(sums.tolist()) == {32_760**2, -(32_760**2)}
            assert (hits == 2**shape.columns - 1).all()
