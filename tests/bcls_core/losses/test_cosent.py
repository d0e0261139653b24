from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.cosent import CoSENTLoss, cosent_loss


def query_cost(scores, labels, scale):
    """One query, from the formula, in plain Python floats; shifted by the largest exponent."""
    pairs = product(range(len(scores)), repeat=2)
    exponents = [0.0, *(scale * (scores[k] - scores[j]) for j, k in pairs if labels[j] > labels[k])]
    top = max(exponents)
    return top + math.log(sum(math.exp(x - top) for x in exponents))


def direction_cost(scores, labels, scale):
    return np.mean([query_cost(s, r, scale) for s, r in zip(scores.tolist(), labels.tolist(), strict=True)])


def definition(scores, labels, scale=20.0):
    return (direction_cost(scores, labels, scale) + direction_cost(scores.T, labels.T, scale)) / 2


def naive_loss(scores, labels, scale):
    """All pairs at once, for autograd."""
    means = []
    for s, r in ((scores, labels), (scores.T, labels.T)):
        pairs = scale * (s[:, None, :] - s[:, :, None])
        pairs = pairs.masked_fill(~(r[:, :, None] > r[:, None, :]), -torch.inf).flatten(1)
        means.append(torch.logsumexp(torch.cat([pairs, pairs.new_zeros(len(s), 1)], 1), 1).mean())
    return sum(means) / 2


@st.composite
def batches(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))

    def matrix(values):
        return torch.tensor([[draw(values) for _ in range(columns)] for _ in range(rows)], dtype=torch.float64)

    return matrix(st.integers(-10, 10).map(lambda n: n / 10)), matrix(st.integers(0, 4).map(lambda n: n / 4))


@pytest.mark.parametrize(("scale", "expected"), [(20.0, 1.0999875897), (1.0, 1.7131259571)])
def test_worked_batch_gives_the_numbers_of_the_formula(worked_scores, worked_labels, scale, expected):
    assert cosent_loss(worked_scores, worked_labels, scale=scale).item() == pytest.approx(expected, abs=5e-11)


def test_few_candidates_by_hand():
    pair = torch.tensor([[1.0, 0.0]])
    assert cosent_loss(torch.zeros(1, 2), pair).item() == pytest.approx(math.log(2) / 2, abs=1e-7)
    assert cosent_loss(torch.tensor([[0.0, 0.1]]), pair).item() == pytest.approx(math.log(1 + math.e**2) / 2, abs=1e-6)
    tied = cosent_loss(torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.1]]))  # the two tied ones: no pair
    assert tied.item() == pytest.approx(math.log(1 + 1 + math.exp(-100)) / 2, abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(case=batches(), scale=st.sampled_from([1.0, 20.0, 300.0]))
def test_equals_the_definition_with_its_gradient_whatever_is_tied(case, scale):
    scores, labels = case
    scores.requires_grad_()
    loss = cosent_loss(scores, labels, scale=scale)
    (gradient,) = torch.autograd.grad(loss, scores)
    (expected,) = torch.autograd.grad(naive_loss(scores, labels, scale), scores)
    assert loss.item() == pytest.approx(definition(scores.detach(), labels, scale), rel=1e-12, abs=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def test_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(0, 4, (5, 6), generator=generator) / 4
    assert torch.autograd.gradcheck(lambda s: cosent_loss(s, labels, scale=2.0), (scores,))


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (2, 5)])
@pytest.mark.parametrize("largest", [1.0, 1e30])
def test_equal_labels_cost_nothing(shape, largest):
    scores = (torch.randn(shape, generator=torch.Generator().manual_seed(2)) * largest).requires_grad_()
    loss = cosent_loss(scores, torch.full(shape, 0.3))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(shape))


def test_a_query_without_pairs_counts_in_the_mean():
    scores, labels = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert cosent_loss(scores, labels).item() == pytest.approx((math.log(2) / 2 + math.log(2) / 2) / 2, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_large_scores_keep_value_and_gradient(dtype):
    largest = 1e30 if dtype in (torch.float64, torch.float32) else 6e4
    generator = torch.Generator().manual_seed(3)
    scores = ((torch.rand(6, 6, generator=generator) * 2 - 1) * largest).to(dtype).requires_grad_()
    labels = torch.rand(6, 6, generator=generator).to(dtype)
    loss = cosent_loss(scores, labels)
    loss.backward()
    exact = scores.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(naive_loss(exact, labels, 20.0), exact)
    assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(definition(exact.detach(), labels), rel=1e-5)
    assert scores.grad.dtype is dtype
    torch.testing.assert_close(scores.grad.double(), expected, rtol=1e-2, atol=1e-6)  # bfloat16 has 8 bits


def test_the_largest_finite_scores_have_a_finite_gradient():
    scores = (torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 1.0]]) * 3.4e38).requires_grad_()
    cosent_loss(scores, torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.2, 0.2]])).backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]


def test_a_common_offset_costs_no_digits():
    generator = torch.Generator().manual_seed(4)
    scores = torch.randint(-64, 64, (5, 5), generator=generator) / 64  # representable beside the offset
    labels = torch.rand(5, 5, generator=generator)
    assert torch.equal(cosent_loss(scores + 1024, labels), cosent_loss(scores, labels))


@pytest.mark.parametrize(
    ("dtype", "labels", "ordered"),
    [
        (torch.float64, [0.5 + 1e-12, 0.5], True),
        (torch.float32, [0.5 + 1e-12, 0.5], False),
        (torch.float32, [0.5 + 2**-25, 0.5], False),
        (torch.float32, [0.5 + 2**-24, 0.5], True),
        (torch.bfloat16, [0.5 + 2**-8, 0.5], True),
        (torch.float16, [0.5 + 2**-11, 0.5], True),
        (torch.float32, [0.0, -0.0], False),
    ],
)
def test_labels_are_compared_in_their_own_dtype(dtype, labels, ordered):
    loss = cosent_loss(torch.zeros(1, 2), torch.tensor([labels], dtype=dtype))
    assert loss.item() == pytest.approx(math.log(2) / 2 if ordered else 0.0, abs=1e-7)


def test_memory_stays_quadratic(largest_tensors):
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(60, 60, generator=generator, requires_grad=True)
    labels = torch.rand(60, 60, generator=generator)
    made, saved = largest_tensors(lambda: cosent_loss(scores, labels))
    assert made <= 60 * 61
    assert saved <= 60 * 60


def test_a_transposed_direction_may_be_another_rectangle():
    generator = torch.Generator().manual_seed(6)
    ours, theirs = torch.randn(2, 6, generator=generator), torch.randn(3, 5, generator=generator)
    labels, flipped = torch.rand(2, 6, generator=generator), torch.rand(3, 5, generator=generator)
    loss = cosent_loss(ours, labels, t2i_scores=theirs, t2i_labels=flipped)
    expected = (direction_cost(ours, labels, 20.0) + direction_cost(theirs, flipped, 20.0)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_labels_get_no_gradient_and_a_second_derivative_is_refused(worked_scores, worked_labels):
    scores = worked_scores.requires_grad_()
    loss = cosent_loss(scores, worked_labels.requires_grad_()) ** 2
    gradient, unread = torch.autograd.grad(loss, (scores, worked_labels), create_graph=True, allow_unused=True)
    assert unread is None
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    module = CoSENTLoss(scale=3.0)
    terms = module(worked_scores, worked_labels, torch.eye(4, dtype=torch.bool), t2i_labels=worked_labels)
    assert list(terms) == ["cosent"]
    expected = cosent_loss(worked_scores, worked_labels, scale=3.0, t2i_labels=worked_labels)
    assert torch.equal(terms["cosent"], expected)
    assert "scale=3.0" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.full((3, 3), float("nan"))}, ShapeError, "scores: nan at row 0, column 0"),
        ({"labels": torch.zeros(3, 4)}, ShapeError, r"labels: shape \(3, 4\), but scores has \(3, 3\)"),
        ({"positives": torch.zeros(3, 3)}, ShapeError, r"positives: torch.float32"),
        ({"t2i_scores": torch.zeros(3, 3)}, ShapeError, "t2i_labels: missing"),
        ({"scale": 0.0}, ConfigError, "scale: 0.0, expected a number above 0"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        cosent_loss(**({"scores": torch.zeros(3, 3), "labels": torch.zeros(3, 3)} | arguments))
