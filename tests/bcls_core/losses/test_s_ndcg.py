from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.s_ndcg import SmoothNDCGLoss, s_ndcg_loss


def sigmoid(x):
    return math.exp(min(x, 0.0)) / (1 + math.exp(-abs(x)))


def query_cost(scores, labels, tau):
    """One query, from the formula, in plain Python floats."""
    gains = [2 ** (max(1 + r, 0.0) / 2) - 1 for r in labels]
    if max(gains) == min(gains):
        return 0.0
    ranks = [1 + sum(sigmoid((o - s) / tau) for k, o in enumerate(scores) if k != j) for j, s in enumerate(scores)]
    ideal = sum(gain / math.log2(1 + place) for place, gain in enumerate(sorted(gains, reverse=True), start=1))
    return 1 - sum(gain / math.log2(1 + rank) for gain, rank in zip(gains, ranks, strict=True)) / ideal


def direction_cost(scores, labels, tau):
    return np.mean([query_cost(s, r, tau) for s, r in zip(scores.tolist(), labels.tolist(), strict=True)])


def definition(scores, labels, tau=0.01):
    return (direction_cost(scores, labels, tau) + direction_cost(scores.T, labels.T, tau)) / 2


def naive_loss(scores, labels, tau):
    """All pairs at once, for autograd."""
    means = []
    for s, r in ((scores, labels), (scores.T, labels.T)):
        gains = 2 ** ((1 + r) / 2) - 1
        ranks = 0.5 + torch.sigmoid((s[:, None, :] - s[:, :, None]) / tau).sum(2)
        places = torch.arange(1, s.shape[1] + 1, dtype=s.dtype)
        ideal = (gains.sort(1, descending=True).values / torch.log2(1 + places)).sum(1)
        means.append((1 - (gains / torch.log2(1 + ranks)).sum(1) / ideal).mean())
    return sum(means) / 2


@st.composite
def batches(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))

    def matrix(values):
        return torch.tensor([[draw(values) for _ in range(columns)] for _ in range(rows)], dtype=torch.float64)

    grid = st.integers(-10, 10).map(lambda n: n / 10)
    return matrix(grid), matrix(st.one_of(grid, st.sampled_from([-1.5, -1.0, 1.0, 4.0])))


@pytest.mark.parametrize(("tau", "expected"), [(0.01, 0.0189517502), (0.1, 0.0729545591)])
def test_worked_batch_gives_the_numbers_of_the_formula(worked_scores, worked_labels, tau, expected):
    assert s_ndcg_loss(worked_scores, worked_labels, tau=tau).item() == pytest.approx(expected, abs=5e-11)


def test_two_candidates_by_hand():
    tied = s_ndcg_loss(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))  # both at place 1.5; a column has one image
    assert tied.item() == pytest.approx((1 - 1 / math.log2(2.5)) / 2, abs=1e-7)
    swapped = s_ndcg_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, -1.0]]))
    assert swapped.item() == pytest.approx((1 - 1 / math.log2(3)) / 2, abs=1e-7)
    graded = s_ndcg_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    lesser, second = math.sqrt(2) - 1, 1 / math.log2(3)
    assert graded.item() == pytest.approx((1 - (second + lesser) / (1 + lesser * second)) / 2, abs=1e-7)


@settings(max_examples=80, deadline=None)
@given(case=batches(), tau=st.sampled_from([0.01, 0.1, 1.0]))
def test_equals_the_definition_with_ties_and_labels_outside_of_cosines(case, tau):
    scores, labels = case
    scores.requires_grad_()
    loss = s_ndcg_loss(scores, labels, tau=tau)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores.detach(), labels, tau), rel=1e-10, abs=1e-12)
    assert -1e-12 <= loss.item() < 1
    assert torch.isfinite(scores.grad).all()


def test_gradient_is_that_of_the_formula():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.rand(5, 6, dtype=torch.float64, generator=generator) * 2 - 1
    (gradient,) = torch.autograd.grad(s_ndcg_loss(scores, labels, tau=0.3), scores)
    (expected,) = torch.autograd.grad(naive_loss(scores, labels, 0.3), scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda s: s_ndcg_loss(s, labels, tau=0.3), (scores,))


def test_small_temperatures_give_one_minus_ndcg():
    generator = np.random.default_rng(2)
    scores, labels = generator.standard_normal((6, 8)), generator.random((6, 8)) * 2 - 1
    means = []
    for s, r in ((scores, labels), (scores.T, labels.T)):
        gains = 2 ** ((1 + r) / 2) - 1
        discount = 1 / np.log2(np.arange(2, s.shape[1] + 2))
        found = np.take_along_axis(gains, np.argsort(-s, axis=1), axis=1) @ discount
        means.append(np.mean(1 - found / (-np.sort(-gains, axis=1) @ discount)))
    loss = s_ndcg_loss(torch.tensor(scores), torch.tensor(labels), tau=1e-6)
    assert loss.item() == pytest.approx(np.mean(means), abs=1e-9)


def test_the_order_of_the_labels_costs_nothing(worked_labels):
    assert s_ndcg_loss(worked_labels, worked_labels, tau=1e-4).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("label", [-3.0, -1.0, 0.3, 1.0, 6e4])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_equal_gains_cost_nothing(shape, label):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
    loss = s_ndcg_loss(scores, torch.full(shape, label), tau=0.5)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(shape))


def test_a_query_without_gains_counts_in_the_mean():
    scores, labels = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    first = 1 - 1 / math.log2(3)
    column = 1 - 1 / math.log2(2.5)
    assert s_ndcg_loss(scores, labels).item() == pytest.approx((first / 2 + column / 2) / 2, abs=1e-7)


def test_labels_below_minus_one_earn_what_minus_one_earns():
    scores = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([[1.0, -1.0, 0.2, -1.0], [0.5, 0.1, -1.0, 0.9], [-1.0, 0.4, 0.3, 1.0]])
    lower = torch.where(labels == -1, -7.0, labels)
    assert torch.equal(s_ndcg_loss(scores, lower), s_ndcg_loss(scores, labels))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("largest_label", [1.0, 300.0, 6e4])
def test_finite_input_of_any_size_gives_a_finite_loss_and_gradient(dtype, largest_label):
    largest = 1e30 if dtype in (torch.float64, torch.float32) else 6e4
    generator = torch.Generator().manual_seed(5)
    unit = torch.rand(6, 6, generator=generator) * 2 - 1
    unit[1] = 0.1
    labels = ((torch.rand(6, 6, generator=generator) * 2 - 1) * largest_label).to(dtype)
    for size in (largest, 1e-4):
        scores = (unit * size).to(dtype).requires_grad_()
        loss = s_ndcg_loss(scores, labels)
        loss.backward()
        assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        assert 0 <= loss.item() < 1
        assert scores.grad.dtype is dtype
        assert torch.isfinite(scores.grad).all()
        assert scores.grad.abs().sum() > 0


def test_half_precision_labels_are_read_exactly(worked_scores, worked_labels):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        labels = worked_labels.to(dtype)
        assert torch.equal(s_ndcg_loss(worked_scores, labels), s_ndcg_loss(worked_scores, labels.double()))


def test_a_transposed_direction_may_be_another_rectangle():
    generator = torch.Generator().manual_seed(6)
    ours, theirs = torch.randn(2, 6, generator=generator), torch.randn(3, 5, generator=generator)
    labels, flipped = torch.rand(2, 6, generator=generator), torch.rand(3, 5, generator=generator)
    loss = s_ndcg_loss(ours, labels, t2i_scores=theirs, t2i_labels=flipped, tau=0.1)
    expected = (direction_cost(ours, labels, 0.1) + direction_cost(theirs, flipped, 0.1)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_labels_get_no_gradient(worked_scores, worked_labels):
    loss = s_ndcg_loss(worked_scores.requires_grad_(), worked_labels.requires_grad_())
    loss.backward()
    assert worked_labels.grad is None


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    module = SmoothNDCGLoss(tau=0.2)
    terms = module(worked_scores, worked_labels, torch.eye(4, dtype=torch.bool), t2i_labels=worked_labels)
    assert list(terms) == ["s-ndcg"]
    expected = s_ndcg_loss(worked_scores, worked_labels, tau=0.2, t2i_labels=worked_labels)
    assert torch.equal(terms["s-ndcg"], expected)
    assert "tau=0.2" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.full((3, 3), float("nan"))}, ShapeError, "scores: nan at row 0, column 0"),
        ({"labels": torch.zeros(3, 4)}, ShapeError, r"labels: shape \(3, 4\), but scores has \(3, 3\)"),
        ({"positives": torch.zeros(3, 3)}, ShapeError, r"positives: torch.float32"),
        ({"t2i_scores": torch.zeros(3, 3)}, ShapeError, "t2i_labels: missing"),
        ({"tau": 0.0}, ConfigError, "tau: 0.0, expected a number above 0"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        s_ndcg_loss(**({"scores": torch.zeros(3, 3), "labels": torch.zeros(3, 3)} | arguments))
