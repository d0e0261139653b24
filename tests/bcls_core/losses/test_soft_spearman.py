from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.soft_spearman import SoftSpearmanLoss, soft_spearman_loss


def query_cost(scores, labels, tau):
    """One query in numpy and scipy; None where the labels have no order."""
    if labels.min() == labels.max():
        return None
    found = [0.5 + special.expit((scores - s) / tau).sum() for s in scores]
    if np.ptp(found) < 1e-9:
        return 1.0
    return 1 - np.corrcoef(found, stats.rankdata(-labels))[0, 1]


def direction_cost(scores, labels, tau):
    costs = [query_cost(s, r, tau) for s, r in zip(scores, labels, strict=True)]
    costs = [cost for cost in costs if cost is not None]
    return np.mean(costs) if costs else 0.0


def definition(scores, labels, tau=0.05):
    return (direction_cost(scores, labels, tau) + direction_cost(scores.T, labels.T, tau)) / 2


def naive_loss(scores, labels, tau):
    """All pairs at once, for autograd; untied labels only."""
    means = []
    for s, r in ((scores, labels), (scores.T, labels.T)):
        found = torch.sigmoid((s[:, None, :] - s[:, :, None]) / tau).sum(2)
        wanted = (r[:, None, :] > r[:, :, None]).sum(2).to(s.dtype)
        x, y = found - found.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
        means.append((1 - (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).mean())
    return sum(means) / 2


@st.composite
def batches(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))

    def matrix(values):
        return np.array([[draw(values) for _ in range(columns)] for _ in range(rows)])

    return matrix(st.integers(-10, 10).map(lambda n: n / 10)), matrix(st.integers(0, 4).map(lambda n: n / 4))


@pytest.mark.parametrize(("tau", "expected"), [(0.05, 0.0904396118), (0.2, 0.0956109982)])
def test_worked_batch_gives_the_numbers_of_the_formula(worked_scores, worked_labels, tau, expected):
    assert soft_spearman_loss(worked_scores, worked_labels, tau=tau).item() == pytest.approx(expected, abs=5e-11)


def test_three_candidates_by_hand():
    labels = torch.tensor([[0.9, 0.5, 0.1]])
    assert soft_spearman_loss(torch.tensor([[3.0, 2.0, 1.0]]), labels).item() == pytest.approx(0.0, abs=1e-6)
    assert soft_spearman_loss(torch.tensor([[1.0, 2.0, 3.0]]), labels).item() == pytest.approx(1.0, abs=1e-6)
    swapped = soft_spearman_loss(torch.tensor([[2.0, 3.0, 1.0]]), labels)  # ranks 2, 1, 3: 1 - 6 * 2 / 24 = 0.5
    assert swapped.item() == pytest.approx(0.25, abs=1e-6)  # halved: a column with one image has no order


@settings(max_examples=100, deadline=None)
@given(case=batches(), tau=st.sampled_from([0.02, 0.05, 1.0]))
def test_equals_the_definition_with_ties_in_scores_and_labels(case, tau):
    scores, labels = case
    tensor = torch.tensor(scores, requires_grad=True)
    loss = soft_spearman_loss(tensor, torch.tensor(labels), tau=tau)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores, labels, tau), rel=1e-9, abs=1e-9)
    assert torch.isfinite(tensor.grad).all()


def test_gradient_is_that_of_the_formula():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.rand(5, 6, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad(soft_spearman_loss(scores, labels, tau=0.3), scores)
    (expected,) = torch.autograd.grad(naive_loss(scores, labels, 0.3), scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda s: soft_spearman_loss(s, labels, tau=0.3), (scores,))


@pytest.mark.parametrize("ties", [False, True])
def test_small_temperatures_give_one_minus_spearman(ties):
    generator = np.random.default_rng(2)
    scores = generator.standard_normal((7, 9))
    labels = generator.integers(0, 4, (7, 9)) / 3 if ties else generator.random((7, 9))
    means = [
        np.mean([1 - stats.spearmanr(s, r).statistic for s, r in zip(*pair, strict=True)])
        for pair in ((scores, labels), (scores.T, labels.T))
    ]
    loss = soft_spearman_loss(torch.tensor(scores), torch.tensor(labels), tau=1e-6)
    assert loss.item() == pytest.approx(np.mean(means), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("score", [0.0, 0.3, 1e30])
def test_equal_scores_cost_one_and_are_parted(score, dtype):
    scores = torch.full((5, 5), score, dtype=dtype).requires_grad_()
    labels = torch.eye(5) + torch.rand(5, 5, generator=torch.Generator().manual_seed(3)) / 2
    loss = soft_spearman_loss(scores, labels)
    loss.backward()
    assert loss.item() == 1.0
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad.diagonal() < 0).all()  # a step against the gradient raises what is most relevant


@pytest.mark.parametrize("spread", [1e-6, 1e-9, 1e-12, 1e-15])
def test_nearly_equal_scores_have_a_bounded_gradient(spread):
    generator = torch.Generator().manual_seed(4)
    scores = (spread * torch.randn(6, 6, dtype=torch.float64, generator=generator)).requires_grad_()
    loss = soft_spearman_loss(scores, torch.rand(6, 6, generator=generator), tau=0.05)
    loss.backward()
    assert scores.grad.abs().max() < 1 / (8 * 0.05 * 1e-3) * 2  # slope 1/4 over tau, norm 0.001, two directions
    if spread < 1e-8:
        assert loss.item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (2, 5)])
def test_equal_labels_cost_nothing(shape):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(5)).requires_grad_()
    loss = soft_spearman_loss(scores, torch.full(shape, 0.3))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(shape))


def test_queries_without_an_order_are_not_counted():
    scores = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    labels = torch.tensor([[0.9, 0.5, 0.1], [0.4, 0.4, 0.4]])
    # images: 2 of one query; captions: (1, 3) against (0.9, 0.4) wrong, (2, 1) right, (3, 2) wrong
    assert soft_spearman_loss(scores, labels).item() == pytest.approx((2 + (2 + 0 + 2) / 3) / 2, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_finite_input_of_any_size_gives_a_finite_loss_and_gradient(dtype):
    wide = dtype in (torch.float64, torch.float32)
    generator = torch.Generator().manual_seed(6)
    unit = torch.rand(6, 6, generator=generator) * 2 - 1
    unit[1] = 0.1
    labels = ((torch.rand(6, 6, generator=generator) * 2 - 1) * (1e30 if wide else 6e4)).to(dtype)
    for size in (1e30 if wide else 6e4, 1.0, 1e-4, 6e-8):
        scores = (unit * size).to(dtype).requires_grad_()
        loss = soft_spearman_loss(scores, labels)
        loss.backward()
        assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        assert 0 <= loss.item() <= 2
        assert scores.grad.dtype is dtype
        assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize(
    ("dtype", "labels", "expected"),
    [
        (torch.float64, [0.5, 0.5 + 1e-12, 0.1], 0.25),  # told apart in their own dtype: ranks 2, 1, 3 wanted
        (torch.float32, [0.5, 0.5 + 1e-12, 0.1], (1 - np.sqrt(3) / 2) / 2),  # tied: 1.5, 1.5, 3
        (torch.bfloat16, [0.5, 0.5 + 2**-8, 0.1], 0.25),
        (torch.float16, [0.5, 0.5 + 2**-11, 0.1], 0.25),
    ],
)
def test_labels_are_compared_in_their_own_dtype(dtype, labels, expected):
    loss = soft_spearman_loss(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([labels], dtype=dtype))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_transposed_direction_may_be_another_rectangle():
    generator = np.random.default_rng(7)
    ours, theirs = generator.standard_normal((2, 6)), generator.standard_normal((3, 5))
    labels, flipped = generator.random((2, 6)), generator.random((3, 5))
    loss = soft_spearman_loss(
        torch.tensor(ours), torch.tensor(labels), t2i_scores=torch.tensor(theirs), t2i_labels=torch.tensor(flipped)
    )
    expected = (direction_cost(ours, labels, 0.05) + direction_cost(theirs, flipped, 0.05)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_labels_get_no_gradient(worked_scores, worked_labels):
    soft_spearman_loss(worked_scores.requires_grad_(), worked_labels.requires_grad_()).backward()
    assert worked_labels.grad is None


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    module = SoftSpearmanLoss(tau=0.2)
    terms = module(worked_scores, worked_labels, torch.eye(4, dtype=torch.bool), t2i_labels=worked_labels)
    assert list(terms) == ["soft-spearman"]
    expected = soft_spearman_loss(worked_scores, worked_labels, tau=0.2, t2i_labels=worked_labels)
    assert torch.equal(terms["soft-spearman"], expected)
    assert "tau=0.2" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.full((3, 3), float("nan"))}, ShapeError, "scores: nan at row 0, column 0"),
        ({"labels": torch.zeros(3, 4)}, ShapeError, r"labels: shape \(3, 4\), but scores has \(3, 3\)"),
        ({"positives": torch.zeros(3, 3)}, ShapeError, r"positives: torch.float32"),
        ({"t2i_scores": torch.zeros(3, 3)}, ShapeError, "t2i_labels: missing"),
        ({"tau": -1.0}, ConfigError, "tau: -1.0, expected a number above 0"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        soft_spearman_loss(**({"scores": torch.zeros(3, 3), "labels": torch.zeros(3, 3)} | arguments))
