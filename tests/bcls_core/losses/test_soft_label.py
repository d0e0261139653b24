from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch.func import functional_call

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.soft_label import SoftLabelLoss, soft_label_loss
from bcls_core.workers import Workers


class Known(Workers):
    """One of two workers, where the number of rows of the whole batch is known."""

    def __init__(self, rows: float) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "rows_of_all", rows)

    def sum(self, values):
        return torch.full_like(values, self.rows_of_all)


def row_divergence(scores, teacher, student_tau, teacher_tau):
    """One row, from the formula, in plain Python floats; a probability that underflows costs nothing."""
    logs = []
    for row, tau in ((teacher, teacher_tau), (scores, student_tau)):
        centred = [(value - max(row)) / tau for value in row]
        log_sum = math.log(sum(math.exp(value) for value in centred))
        logs.append([value - log_sum for value in centred])
    return sum(math.exp(p) * (p - q) for p, q in zip(*logs, strict=True) if math.exp(p) > 0)


def definition(scores, teacher, student_tau=0.45, teacher_tau=1.0):
    rows = [row_divergence(s, t, student_tau, teacher_tau) for s, t in zip(scores, teacher, strict=True)]
    return sum(rows) / len(rows)


@st.composite
def graded_batches(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    value = st.integers(-20, 20).map(lambda n: n / 20)
    scores, teacher = ([[draw(value) for _ in range(columns)] for _ in range(rows)] for _ in range(2))
    return scores, teacher


@pytest.mark.parametrize(
    ("student_tau", "teacher_tau", "expected"), [(0.45, 1.0, 0.03087834807411785), (0.1, 0.5, 0.5975576559694991)]
)
def test_worked_batch_gives_the_known_values(worked_scores, worked_labels, student_tau, teacher_tau, expected):
    value = soft_label_loss(worked_scores, worked_labels, student_tau=student_tau, teacher_tau=teacher_tau)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    case=graded_batches(),
    student_tau=st.sampled_from([0.01, 0.45, 3.0]),
    teacher_tau=st.sampled_from([1e-4, 0.1, 1.0, 5.0]),
)
def test_equals_the_definition(case, student_tau, teacher_tau):
    scores, teacher = case
    tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    target = torch.tensor(teacher, dtype=torch.float64)
    loss = soft_label_loss(tensor, target, student_tau=student_tau, teacher_tau=teacher_tau)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores, teacher, student_tau, teacher_tau), rel=1e-12, abs=1e-12)
    assert loss.item() > -1e-14
    expected = ((tensor / student_tau).softmax(1) - (target / teacher_tau).softmax(1)) / student_tau / len(scores)
    torch.testing.assert_close(tensor.grad, expected.detach(), rtol=1e-10, atol=1e-12)


def test_equals_scipys_relative_entropy():
    scores, teacher = torch.randn(2, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = rel_entr(softmax(teacher.numpy() / 0.7, 1), softmax(scores.numpy() / 0.3, 1)).sum(1).mean()
    value = soft_label_loss(scores, teacher, student_tau=0.3, teacher_tau=0.7)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_gradients_of_scores_and_temperature_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: soft_label_loss(s, teacher, student_tau=t), (scores, tau))


def test_gradient_of_the_learned_parameter_is_that_of_finite_differences():
    module = SoftLabelLoss(0.45).double()
    scores, teacher = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss(log_tau):
        return functional_call(module, {"student_tau.log_tau": log_tau}, (scores, teacher))["soft-label"]

    assert torch.autograd.gradcheck(loss, (module.student_tau.log_tau,))


def test_learning_finds_the_temperature_that_matches_the_teacher():
    module = SoftLabelLoss(0.45)
    scores = torch.randn(8, 8, generator=torch.Generator().manual_seed(4))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        module(scores, scores / 0.2)["soft-label"].backward()
        optimiser.step()
    assert module.student_tau().item() == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_distributions_cost_nothing(dtype):
    scores = torch.randn(8, 9, dtype=dtype, generator=torch.Generator().manual_seed(5)).requires_grad_()
    shift = torch.arange(8, dtype=dtype)[:, None]  # a softmax does not see it
    for teacher in (scores, scores + shift):
        loss = soft_label_loss(scores, teacher, student_tau=0.45, teacher_tau=0.45)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert abs(loss.item()) < 20 * torch.finfo(dtype).eps
        assert gradient.abs().max() < 20 * torch.finfo(dtype).eps


def test_only_the_rows_are_compared():
    scores, teacher = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(6))
    rows = [soft_label_loss(s[None], t[None], student_tau=0.45) for s, t in zip(scores, teacher, strict=True)]
    torch.testing.assert_close(soft_label_loss(scores, teacher, student_tau=0.45), sum(rows) / 3)


def test_shares_of_two_workers_add_up_to_the_whole_batch():
    scores, teacher = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    parts = [
        SoftLabelLoss(learned=False)(scores[mine], teacher[mine], workers=Known(6.0))["soft-label"]
        for mine in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), soft_label_loss(scores, teacher, student_tau=0.45))


def test_outside_of_the_bounds_the_workers_decide_on_the_joint_gradient():
    scores, teacher = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(8))
    for joint, kept in ((1.0, True), (-1.0, False)):
        module = SoftLabelLoss()
        with torch.no_grad():
            module.student_tau.log_tau.fill_(2.0)
        module(scores, teacher, workers=Known(joint))["soft-label"].backward()
        assert (module.student_tau.log_tau.grad.item() != 0.0) is kept


@pytest.mark.parametrize("teacher_tau", [1e-30, 1e-5, 1e-2])
def test_a_certain_teacher_gives_the_log_likelihood_of_its_choice(teacher_tau):
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(9)).requires_grad_()
    teacher = torch.eye(6)[torch.randperm(6, generator=torch.Generator().manual_seed(10))] * 5
    tau = torch.tensor(0.45, requires_grad=True)
    loss = soft_label_loss(scores, teacher, student_tau=tau, teacher_tau=teacher_tau)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(scores / 0.45, teacher.argmax(1))
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(scores.grad).all()
    assert math.isfinite(tau.grad.item())


def test_no_gradient_reaches_the_teacher():
    scores, teacher = torch.zeros(3, 3, requires_grad=True), torch.rand(3, 3, requires_grad=True)
    soft_label_loss(scores, teacher, student_tau=0.45).backward()
    assert teacher.grad is None
    assert scores.grad is not None


@pytest.mark.parametrize("size", [1.0, 1e4, 1e20, 1e30])
@pytest.mark.parametrize("teacher_size", [1.0, 1e30])
def test_huge_values_neither_overflow_nor_lose_the_gradient(size, teacher_size):
    generator = torch.Generator().manual_seed(11)
    scores = (torch.randn(6, 6, generator=generator) * size).requires_grad_()
    teacher = torch.randn(6, 6, generator=generator) * teacher_size
    tau = torch.tensor(0.1, requires_grad=True)
    loss = soft_label_loss(scores, teacher, student_tau=tau, teacher_tau=0.5)
    loss.backward()
    expected = definition(scores.double().tolist(), teacher.double().tolist(), 0.1, 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() > 0
    assert math.isfinite(tau.grad.item())


def test_what_no_float_can_hold_is_infinite_and_never_nan():
    scores = torch.tensor([[3e38, -3e38]], requires_grad=True)
    loss = soft_label_loss(scores, torch.tensor([[-3e38, 3e38]]), student_tau=0.1, teacher_tau=0.1)
    loss.backward()
    assert loss.item() == math.inf
    assert scores.grad[0].tolist() == pytest.approx([10.0, -10.0])


@pytest.mark.parametrize("teacher_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_each_side_keeps_its_own_precision(dtype, teacher_dtype):
    generator = torch.Generator().manual_seed(12)
    scores = torch.randn(6, 7, generator=generator).to(dtype).requires_grad_()
    teacher = (torch.randn(6, 7, generator=generator) + 1000).to(teacher_dtype)
    loss = soft_label_loss(scores, teacher, student_tau=0.45)
    loss.backward()
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    expected = definition(scores.double().tolist(), teacher.double().tolist())
    assert loss.dtype is wide
    assert loss.item() == pytest.approx(expected, rel=1e-12 if wide is torch.float64 else 1e-5)
    assert scores.grad.dtype is dtype


def test_a_wide_teacher_may_exceed_the_range_of_the_scores():
    teacher = torch.tensor([[1e300, 0.0, -1e300]], dtype=torch.float64)
    loss = soft_label_loss(torch.zeros(1, 3), teacher, student_tau=0.45)
    assert loss.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("shape", [(1, 1), (4, 1)])
def test_a_single_column_costs_nothing(shape):
    module, scores = SoftLabelLoss(), torch.full(shape, 0.3, requires_grad=True)
    loss = module(scores, torch.rand(shape))["soft-label"]
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.abs().sum() == 0.0
    assert module.student_tau.log_tau.grad.item() == 0.0


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    fixed = SoftLabelLoss(0.05, learned=False, teacher_tau=0.3)
    learned = SoftLabelLoss(0.3, lowest=0.2, highest=0.4, teacher_tau=0.3).double()
    expected = soft_label_loss(worked_scores, worked_labels, student_tau=0.05, teacher_tau=0.3)
    assert list(fixed(worked_scores, worked_labels)) == ["soft-label"]
    assert torch.equal(fixed(worked_scores, worked_labels)["soft-label"], expected)
    torch.testing.assert_close(
        learned(worked_scores, worked_labels)["soft-label"],
        soft_label_loss(worked_scores, worked_labels, student_tau=0.3, teacher_tau=0.3),
        rtol=1e-6,
        atol=0,
    )
    assert not list(fixed.parameters())
    assert repr(fixed) == "SoftLabelLoss(student_tau=0.05, teacher_tau=0.3)"
    assert "Temperature(start=0.3, lowest=0.2, highest=0.4)" in repr(learned)
    default = SoftLabelLoss()
    held = default.student_tau
    assert (held.start, held.lowest, held.highest, default.teacher_tau) == (0.45, 0.10, 0.99, 1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.zeros(3)}, ShapeError, r"scores: shape \(3,\)"),
        ({"scores": torch.zeros(3, 2)}, ShapeError, r"teacher: shape \(2, 3\).*transposed"),
        ({"teacher": torch.zeros(2, 3, dtype=torch.int64)}, ShapeError, "teacher: torch.int64"),
        ({"teacher": torch.full((2, 3), torch.inf)}, ShapeError, "teacher: inf at row 0"),
        ({"scores": torch.full((2, 3), torch.nan)}, ShapeError, "scores: nan at row 0"),
        ({"student_tau": 0.0}, ConfigError, "student_tau: 0.0, expected a number above 0"),
        ({"student_tau": torch.ones(2)}, ShapeError, r"student_tau: shape \(2,\)"),
        ({"teacher_tau": -1.0}, ConfigError, "teacher_tau: -1.0, expected a number above 0"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    given_ = {"scores": torch.zeros(2, 3), "teacher": torch.zeros(2, 3), "student_tau": 0.45}
    with pytest.raises(error, match=message):
        soft_label_loss(**(given_ | arguments))


def test_a_learned_temperature_starts_inside_of_its_bounds():
    with pytest.raises(ConfigError, match=r"starts at 1\.0"):
        SoftLabelLoss(1.0)
