"""Cosines of stored rows against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bcls_core.errors import ShapeError
from bcls_core.similarity.cosine import ExactRows, cosine_matrix, cosine_pairs, stored_rows

finite_halves = st.floats(width=16, allow_nan=False, allow_infinity=False)


def exact_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """To some 30 digits, from the rows' exact values."""
    x, y = [Fraction(float(v)) for v in a], [Fraction(float(v)) for v in b]
    dot = sum((p * q for p, q in zip(x, y, strict=True)), Fraction(0))
    squares = sum((p * p for p in x), Fraction(0)) * sum((q * q for q in y), Fraction(0))
    ratio = dot * dot / squares
    scale = 10**40
    return math.copysign(math.isqrt(ratio.numerator * scale // ratio.denominator) / math.isqrt(scale), dot)


def unit_rows(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = rng.normal(size=(count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@given(arrays.arrays(np.float16, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=finite_halves), st.data())
@settings(max_examples=60, deadline=None)
def test_cosines_are_the_rational_ones_rounded(rows: np.ndarray, data: st.DataObject) -> None:
    rows = rows[rows.any(axis=1)]
    if not len(rows):
        return
    order = np.array(data.draw(st.permutations(range(rows.shape[1]))))
    matrix = cosine_matrix(rows, rows)
    for i in range(len(rows)):
        for j in range(len(rows)):
            truth = exact_cosine(rows[i], rows[j])
            assert abs(float(matrix[i, j]) - truth) <= 2.0**-25 + 1e-15
    # Exact sums have no order: shuffled coordinates, transposition and one pair at a time give the same bits.
    assert cosine_matrix(rows[:, order], rows[:, order]).tobytes() == matrix.tobytes()
    assert np.ascontiguousarray(matrix.T).tobytes() == matrix.tobytes()
    left, right = np.divmod(np.arange(matrix.size), len(rows))
    assert cosine_pairs(rows[left], rows[right]).tobytes() == matrix.tobytes()
    assert (np.diag(matrix) == 1).all()


def wide_rows(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Norms up to fp16's largest, values over its whole range."""
    rows = rng.normal(size=(count, dimension)) * np.exp2(rng.integers(-22, 14, size=(count, dimension)))
    rows[0], rows[1] = 65504, np.where(np.arange(dimension) % 2, 65504, 2.0**-24)
    return rows.astype(np.float16)


@pytest.mark.parametrize("kind", ["unit", "wide"])
def test_sums_of_products_are_exact(kind: str) -> None:
    """Float64 sums equal rational ones, part by part: so the order in which they are taken cannot matter."""
    make = unit_rows if kind == "unit" else wide_rows
    rows = make(np.random.default_rng(0), 6, 512)
    exact = ExactRows.of(rows)
    parts = [exact.high] if exact.low is None else [exact.high, exact.low]
    assert len(parts) == (1 if kind == "unit" else 2)
    for left in parts:
        for right in parts:
            sums = left @ right.T
            for i, j in np.ndindex(6, 6):
                products = [Fraction(p) * Fraction(q) for p, q in zip(left[i].tolist(), right[j].tolist(), strict=True)]
                assert Fraction(float(sums[i, j])) == sum(products, Fraction(0))


def test_long_rows_in_any_company_and_order_give_the_same_bits() -> None:
    rng = np.random.default_rng(1)
    dimension = 257
    rows = rng.normal(size=(60, dimension)) * np.exp2(rng.integers(-14, 15, size=(60, dimension)))
    rows[::3] /= np.linalg.norm(rows[::3], axis=1, keepdims=True)
    rows = rows.astype(np.float16)
    matrix = cosine_matrix(rows, rows)
    order = rng.permutation(dimension)
    assert cosine_matrix(rows[:, order], rows[:, order]).tobytes() == matrix.tobytes()
    assert cosine_matrix(rows[::3], rows[::3]).tobytes() == np.ascontiguousarray(matrix[::3, ::3]).tobytes()


def test_scaling_a_row_by_a_power_of_two_changes_no_cosine() -> None:
    rows = unit_rows(np.random.default_rng(2), 20, 32)
    rows = np.where(np.abs(rows) < 2**-9, np.float16(0.0), rows)  # what is left stays normal when scaled down
    scaled = np.ldexp(rows, np.random.default_rng(3).integers(-5, 12, size=(20, 1))).astype(np.float16)
    assert cosine_matrix(scaled, scaled).tobytes() == cosine_matrix(rows, rows).tobytes()


def test_rows_of_other_types_are_rounded_to_half() -> None:
    rows = np.random.default_rng(4).normal(size=(8, 16))
    assert stored_rows(rows).tobytes() == rows.astype(np.float16).tobytes()
    assert (
        stored_rows(rows.astype(np.float32).tolist()).tobytes() == rows.astype(np.float32).astype(np.float16).tobytes()
    )
    assert stored_rows(torch.from_numpy(rows).requires_grad_()).tobytes() == rows.astype(np.float16).tobytes()
    assert stored_rows(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == np.float16
    half = rows.astype(np.float16)
    assert stored_rows(half) is half


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**-140, 2.0**30, 2.0**600])
def test_rows_beyond_half_precision_keep_their_direction(factor: float) -> None:
    rows = np.random.default_rng(5).normal(size=(8, 16))
    assert cosine_matrix(stored_rows(rows * factor), stored_rows(rows * factor)) == pytest.approx(
        (lambda u: u @ u.T)(rows / np.linalg.norm(rows, axis=1, keepdims=True)), abs=2e-3
    )


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "row 1 is all zeros"),
        ([[1.0, 0.0], [np.nan, 1.0]], "row 1 holds NaN"),
        ([[np.inf, 0.0]], "row 0 holds NaN or infinity"),
        (np.array([[np.inf, 0.0]], dtype=np.float16), "row 0 holds NaN or infinity"),
        ([[1.0], [1.0, 2.0]], "rows differ in length"),
        ([1.0, 2.0], "found shape"),
        (np.empty((3, 0)), "found shape"),
        ([["a", "b"]], "expected real numbers"),
        (np.ones((2, 2), dtype=np.complex64), "expected real numbers"),
    ],
)
def test_rows_without_a_direction_are_refused(rows: object, found: str) -> None:
    with pytest.raises(ShapeError, match=found):
        stored_rows(rows)  # type: ignore[arg-type]


def test_shapes_that_disagree_are_refused() -> None:
    rows = np.ones((2, 3), dtype=np.float16)
    with pytest.raises(ShapeError, match="one model"):
        cosine_matrix(rows, rows[:, :2])
    with pytest.raises(ShapeError, match="as many rows"):
        cosine_pairs(rows, rows[:1])
    with pytest.raises(ShapeError, match="norm"):
        cosine_matrix(np.ones((1, 5000), dtype=np.float16), np.ones((1, 5000), dtype=np.float16))
