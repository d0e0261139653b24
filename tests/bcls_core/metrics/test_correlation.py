from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.errors import ShapeError
from bcls_core.metrics import rank_correlation


def tau_b(x, y):
    """Kendall's tau-b from its definition, pair by pair."""
    concordant = x_pairs = y_pairs = 0
    for i in range(len(x)):
        for j in range(i):
            a, b = int(np.sign(x[i] - x[j])), int(np.sign(y[i] - y[j]))
            concordant, x_pairs, y_pairs = concordant + a * b, x_pairs + abs(a), y_pairs + abs(b)
    return concordant / math.sqrt(x_pairs * y_pairs) if x_pairs and y_pairs else None


def rho(x, y):
    """Pearson of average ranks, each found by counting."""
    ranks = [[sum(b < a for b in z) + (sum(b == a for b in z) + 1) / 2 for a in z] for z in (x, y)]
    if any(len(set(z)) == 1 for z in (x, y)):
        return None
    return float(np.corrcoef(ranks)[0, 1])


@st.composite
def score_label_pairs(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    value = draw(st.sampled_from([st.integers(0, 2), st.integers(-50, 50), st.just(1)]))

    def matrix(of):
        return np.array([[draw(of) for _ in range(columns)] for _ in range(rows)], dtype=np.float32) / 8

    return matrix(value), matrix(st.integers(0, 3))


@settings(max_examples=80, deadline=None)
@given(case=score_label_pairs(), tensors=st.booleans())
def test_equals_the_definitions_with_ties_and_constant_rows(case, tensors):
    scores, labels = case
    given_ = (torch.tensor(scores), torch.tensor(labels).bfloat16()) if tensors else (scores, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = rank_correlation(*given_)
    for direction, s, r in (("i2t", scores, labels), ("t2i", scores.T, labels.T)):
        for name, oracle in (("kendall", tau_b), ("spearman", rho)):
            values = [v for v in (oracle(x, y) for x, y in zip(s, r, strict=True)) if v is not None]
            assert result[f"{direction}/{name}_queries"] == len(values)
            mean = float(np.mean(values)) if values else float("nan")
            assert result[f"{direction}/{name}"] == pytest.approx(mean, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("shape", [(20, 100), (100, 20)])
def test_equals_scipy_on_rounded_labels(shape):
    generator = np.random.default_rng(1)
    labels = generator.random(shape).round(1).astype(np.float32)
    scores = (labels + generator.standard_normal(shape)).round(1)
    result = rank_correlation(scores, labels)
    for direction, s, r in (("i2t", scores, labels), ("t2i", scores.T, labels.T)):
        for name, oracle in (("kendall", stats.kendalltau), ("spearman", stats.spearmanr)):
            expected = np.mean([oracle(x, y).statistic for x, y in zip(s, r, strict=True)])
            assert result[f"{direction}/{name}"] == pytest.approx(expected, abs=1e-10)
    assert result["i2t/kendall"] > 0.05


def test_only_the_order_of_scores_matters():
    generator = np.random.default_rng(2)
    scores, labels = generator.standard_normal((6, 30)), generator.random((6, 30))
    assert rank_correlation(np.exp(5 * scores), labels) == rank_correlation(scores, labels)
    perfect = rank_correlation(labels, labels)
    opposite = rank_correlation(-labels, labels)
    for key in ("i2t/kendall", "t2i/kendall", "i2t/spearman", "t2i/spearman"):
        assert perfect[key] == pytest.approx(1.0)
        assert opposite[key] == pytest.approx(-1.0)


def test_transposing_swaps_the_directions():
    generator = np.random.default_rng(3)
    scores, labels = generator.standard_normal((5, 12)), generator.random((5, 12))
    plain, flipped = rank_correlation(scores, labels), rank_correlation(scores.T, labels.T)
    assert {key.replace("i2t", "x").replace("t2i", "i2t").replace("x", "t2i"): v for key, v in flipped.items()} == plain


def test_infinite_scores_are_ordered():
    result = rank_correlation(np.array([[-np.inf, 0.0, np.inf]]), np.array([[0.1, 0.2, 0.3]]))
    assert result["i2t/kendall"] == pytest.approx(1.0)
    assert result["i2t/spearman"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["scores", "labels"])
def test_nan_is_named(name):
    values = {"scores": np.zeros((3, 4)), "labels": np.zeros((3, 4))}
    values[name][1, 2] = np.nan
    with pytest.raises(ShapeError, match=f"{name}: nan at row 1, column 2"):
        rank_correlation(**values)


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match=r"labels: shape \(4, 3\), but scores have \(3, 4\)"):
        rank_correlation(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(ShapeError, match="expected a matrix"):
        rank_correlation(np.zeros(3), np.zeros(3))


def test_whole_numbers_that_float64_does_not_tell_apart_are_refused():
    scores = np.array([[2**60, 2**60 + 1, 2**60 + 2]])
    with pytest.raises(ShapeError, match="scores: whole numbers beyond 2\\^53"):
        rank_correlation(scores, np.array([[0, 1, 2]]))
    assert rank_correlation(scores - 2**60, np.array([[0, 1, 2]]))["i2t/kendall"] == pytest.approx(1.0)
