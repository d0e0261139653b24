from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.info_nce import InfoNCELoss, info_nce_loss
from bcls_core.workers import Workers


class Known(Workers):
    """One of two workers, where the normalisers of the whole batch are known."""

    def __init__(self, rows: float) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "rows_of_all", rows)

    def sum(self, values):
        return torch.full_like(values, self.rows_of_all)


def row_cost(row, own, tau):
    """Cross-entropy of one row, from the formula, in plain Python floats."""
    top = max(row)
    log_normaliser = math.log(sum(math.exp((s - top) / tau) for s in row))
    return -sum((s - top) / tau - log_normaliser for s, p in zip(row, own, strict=True) if p) / sum(own)


def definition(scores, positives, tau):
    means = []
    for s, p in ((scores, positives), (list(zip(*scores, strict=True)), list(zip(*positives, strict=True)))):
        costs = [row_cost(row, own, tau) for row, own in zip(s, p, strict=True) if any(own)]
        means.append(sum(costs) / len(costs) if costs else 0.0)
    return sum(means) / 2


@st.composite
def masked_batches(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    score = st.integers(-20, 20).map(lambda n: n / 20)
    matrix = [[draw(score) for _ in range(columns)] for _ in range(rows)]
    mask = [[draw(st.booleans()) for _ in range(columns)] for _ in range(rows)]
    return matrix, mask


@pytest.mark.parametrize(
    ("tau", "expected"), [(0.05, 0.6828453336798845), (0.1, 0.5910827061394156), (1.0, 1.1534365666601205)]
)
def test_worked_batch_gives_the_known_values(worked_scores, tau, expected):
    assert info_nce_loss(worked_scores, tau=tau).item() == pytest.approx(expected, rel=1e-13)


def test_worked_batch_with_several_positives(worked_scores, worked_labels):
    value = info_nce_loss(worked_scores, worked_labels >= 0.7, tau=0.1)
    assert value.item() == pytest.approx(0.9035827061394155, rel=1e-13)


@settings(max_examples=150, deadline=None)
@given(case=masked_batches(), tau=st.sampled_from([0.01, 0.05, 0.5, 3.0]))
def test_equals_the_definition_for_any_positives(case, tau):
    scores, positives = case
    tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    loss = info_nce_loss(tensor, torch.tensor(positives), tau=tau)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores, positives, tau), rel=1e-12, abs=1e-12)
    assert torch.isfinite(tensor.grad).all()


def test_gradient_is_softmax_less_target():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    positives = torch.rand(5, 6, generator=generator) < 0.4
    positives[0], positives[1] = False, True
    info_nce_loss(scores, positives, tau=0.3).backward()
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for view, s, p in ((expected, scores, positives), (expected.T, scores.T, positives.T)):
        own = p.any(1)
        target = p[own].double() / p[own].sum(1, keepdim=True)
        view[own] += ((s[own] / 0.3).softmax(1) - target).detach() / 0.3 / own.sum() / 2
    torch.testing.assert_close(scores.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("several", [False, True])
def test_gradients_of_scores_and_temperature_are_those_of_finite_differences(several):
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(5, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    positives = torch.rand(5, 5, generator=generator) < 0.4 if several else None
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: info_nce_loss(s, positives, tau=t), (scores, tau))


def test_gradient_of_the_learned_parameter_is_that_of_finite_differences():
    module = InfoNCELoss(0.05).double()
    scores = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 5

    def loss(log_tau):
        return functional_call(module, {"tau.log_tau": log_tau}, (scores,))["info-nce"]

    assert torch.autograd.gradcheck(loss, (module.tau.log_tau,))


def test_learning_lowers_the_temperature_of_separated_scores_down_to_its_bound():
    module = InfoNCELoss(0.05)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        module(torch.eye(4) * 0.1)["info-nce"].backward()
        optimiser.step()
    assert module.tau().item() == pytest.approx(0.01, rel=1e-6)


def test_the_diagonal_is_the_default_mask():
    scores = torch.randn(7, 7, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(info_nce_loss(scores), info_nce_loss(scores, torch.eye(7, dtype=torch.bool)))


def test_shares_of_two_workers_add_up_to_the_whole_batch():
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    positives = torch.eye(6, dtype=torch.bool) | (torch.rand(6, 6, generator=generator) < 0.2)
    parts = [
        info_nce_loss(
            scores[mine],
            positives[mine],
            tau=0.3,
            t2i_scores=scores.T[mine],
            t2i_positives=positives.T[mine],
            workers=Known(6.0),
        )
        for mine in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), info_nce_loss(scores, positives, tau=0.3))


def test_a_row_is_never_below_the_entropy_of_its_target():
    scores = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64)
    positives = torch.tensor([[True, True, False]])
    value = info_nce_loss(scores, positives, tau=0.01, t2i_scores=scores.T, t2i_positives=positives.T)
    assert value.item() == pytest.approx(math.log(2) / 2, rel=1e-13)  # halved: a caption has no other image here


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e20, 1e30])
def test_huge_scores_neither_overflow_nor_lose_the_gradient(size, masked):
    scores = (torch.randn(6, 6, generator=torch.Generator().manual_seed(6)) * size).requires_grad_()
    tau = torch.tensor(0.01, requires_grad=True)
    positives = torch.eye(6, dtype=torch.bool)
    loss = info_nce_loss(scores, positives if masked else None, tau=tau)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores.double().tolist(), positives.tolist(), 0.01), rel=1e-5)
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() > 0
    assert math.isfinite(tau.grad.item())


@pytest.mark.parametrize("positives", [None, torch.eye(3, dtype=torch.bool)])
def test_what_no_float_can_hold_is_infinite_and_never_nan(positives):
    scores = torch.full((3, 3), 3e38).fill_diagonal_(-3e38).requires_grad_()
    loss = info_nce_loss(scores, positives, tau=0.01)
    loss.backward()
    assert loss.item() == math.inf
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad.diagonal() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(dtype):
    scores = (torch.randn(6, 6, generator=torch.Generator().manual_seed(7)) * 6e4).clamp(-6e4, 6e4).to(dtype)
    scores.requires_grad_()
    loss = info_nce_loss(scores, tau=torch.tensor(0.01, dtype=torch.float64))
    loss.backward()
    assert loss.dtype is torch.float32
    expected = definition(scores.double().tolist(), torch.eye(6, dtype=torch.bool).tolist(), 0.01)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert scores.grad.dtype is dtype
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("positives", [None, torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)])
def test_a_batch_of_one_or_without_positives_is_zero(positives):
    module, scores = InfoNCELoss(), torch.full((1, 1), 0.3, requires_grad=True)
    loss = module(scores, positives)["info-nce"]
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.item() == 0.0
    assert module.tau.log_tau.grad.item() == 0.0


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    positives = worked_labels >= 0.7
    fixed, learned = InfoNCELoss(0.3, learned=False), InfoNCELoss(0.08, lowest=0.02, highest=0.09).double()
    assert list(fixed(worked_scores)) == ["info-nce"]
    assert torch.equal(fixed(worked_scores)["info-nce"], info_nce_loss(worked_scores, tau=0.3))
    torch.testing.assert_close(
        learned(worked_scores, positives)["info-nce"],
        info_nce_loss(worked_scores, positives, tau=0.08),
        rtol=1e-6,
        atol=0,
    )
    assert not list(fixed.parameters())
    assert repr(fixed) == "InfoNCELoss(tau=0.3)"
    assert "Temperature(start=0.08, lowest=0.02, highest=0.09)" in repr(learned)


def test_module_passes_the_rectangles_on(worked_scores):
    eye = torch.eye(4, dtype=torch.bool)
    rectangles = {"t2i_scores": worked_scores.T[:2] * 0.5, "t2i_positives": eye[:2], "workers": Known(4.0)}
    value = InfoNCELoss(0.3, learned=False)(worked_scores[:2], eye[:2], **rectangles)["info-nce"]
    assert torch.equal(value, info_nce_loss(worked_scores[:2], eye[:2], tau=0.3, **rectangles))


def test_outside_of_the_bounds_the_workers_decide_on_the_joint_gradient():
    for joint, kept in ((1.0, True), (-1.0, False)):
        module = InfoNCELoss(0.05)
        with torch.no_grad():
            module.tau.log_tau.fill_(0.0)
        module(torch.eye(4), workers=Known(joint))["info-nce"].backward()
        assert (module.tau.log_tau.grad.item() != 0.0) is kept


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.zeros(2, 3)}, ShapeError, r"scores: shape \(2, 3\) has no diagonal"),
        ({"scores": torch.full((2, 2), torch.nan)}, ShapeError, "scores: nan at row 0"),
        ({"tau": 0.0}, ConfigError, "tau: 0.0, expected a number above 0"),
        ({"tau": torch.ones(3)}, ShapeError, r"tau: shape \(3,\)"),
        ({"t2i_scores": torch.zeros(3, 4)}, ShapeError, "Pass t2i_positives"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        info_nce_loss(**({"scores": torch.zeros(3, 3)} | arguments))


def test_a_learned_temperature_starts_inside_of_its_bounds():
    with pytest.raises(ConfigError, match=r"starts at 0\.2"):
        InfoNCELoss(0.2)
