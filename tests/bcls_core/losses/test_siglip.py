from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.siglip import SigLIPLoss, siglip_loss
from bcls_core.workers import Workers


class Known(Workers):
    """One of two workers, where the normalisers of the whole batch are known."""

    def __init__(self, rows: float) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "rows_of_all", rows)

    def sum(self, values):
        return torch.full_like(values, self.rows_of_all)


def definition(scores, positives, scale=10.0, bias=-10.0):
    """All pairs, from the formula, in plain Python floats."""
    total = 0.0
    for i, j in product(range(len(scores)), range(len(scores[0]))):
        x = (1 if positives[i][j] else -1) * (scale * scores[i][j] + bias)
        total += max(-x, 0.0) + math.log1p(math.exp(-abs(x)))
    return (total / len(scores) + total / len(scores[0])) / 2


@st.composite
def masked_batches(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    score = st.integers(-20, 20).map(lambda n: n / 20)
    matrix = [[draw(score) for _ in range(columns)] for _ in range(rows)]
    mask = [[draw(st.booleans()) for _ in range(columns)] for _ in range(rows)]
    return matrix, mask


@pytest.mark.parametrize(
    ("scale", "bias", "expected"),
    [(10.0, -10.0, 4.64871198778015), (10.0, -2.0, 3.1835192421050467), (1.0, 0.0, 2.857035049270782)],
)
def test_worked_batch_gives_the_known_values(worked_scores, scale, bias, expected):
    assert siglip_loss(worked_scores, scale=scale, bias=bias).item() == pytest.approx(expected, rel=1e-13)


def test_worked_batch_with_several_positives(worked_scores, worked_labels):
    value = siglip_loss(worked_scores, worked_labels >= 0.7, bias=-2.0)
    assert value.item() == pytest.approx(2.0585192421050467, rel=1e-13)


def test_the_defaults_are_the_papers():
    scores = torch.eye(3, dtype=torch.float64)
    assert siglip_loss(scores).item() == pytest.approx(math.log(2) + 2 * math.log1p(math.exp(-10)), rel=1e-13)


@settings(max_examples=150, deadline=None)
@given(
    case=masked_batches(),
    scale=st.sampled_from([0.5, 10.0, 100.0]),
    bias=st.sampled_from([-10.0, 0.0, 3.0]),
)
def test_equals_the_definition_for_any_positives(case, scale, bias):
    scores, positives = case
    tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    loss = siglip_loss(tensor, torch.tensor(positives), scale=scale, bias=bias)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores, positives, scale, bias), rel=1e-12, abs=1e-12)
    z = torch.tensor(positives).double() * 2 - 1
    weight = (1 / len(scores) + 1 / len(scores[0])) / 2
    expected = -z * scale * torch.sigmoid(-z * (tensor * scale + bias)) * weight
    torch.testing.assert_close(tensor.grad, expected.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("several", [False, True])
def test_gradients_of_scores_scale_and_bias_are_those_of_finite_differences(several):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    positives = torch.rand(5, 5, generator=generator) < 0.4 if several else None
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t, b: siglip_loss(s, positives, scale=t, bias=b), (scores, scale, bias))


def test_gradients_of_the_learned_parameters_are_those_of_finite_differences():
    module = SigLIPLoss(3.0, -1.0).double()
    scores = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def loss(log_scale, bias):
        return functional_call(module, {"log_scale": log_scale, "bias": bias}, (scores,))["siglip"]

    assert torch.autograd.gradcheck(loss, (module.log_scale, module.bias))


def test_the_diagonal_is_the_default_mask():
    scores = torch.randn(7, 7, generator=torch.Generator().manual_seed(3))
    assert torch.equal(siglip_loss(scores), siglip_loss(scores, torch.eye(7, dtype=torch.bool)))


def test_shares_of_two_workers_add_up_to_the_whole_batch():
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    positives = torch.rand(6, 6, generator=generator) < 0.3
    parts = [
        siglip_loss(
            scores[mine],
            positives[mine],
            t2i_scores=scores.T[mine],
            t2i_positives=positives.T[mine],
            workers=Known(6.0),
        )
        for mine in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), siglip_loss(scores, positives))


def test_rows_without_positives_or_negatives_still_count():
    scores = torch.tensor([[0.1, 0.4], [0.3, -0.2]], dtype=torch.float64)
    for positives in (torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)):
        expected = definition(scores.tolist(), positives.tolist(), 2.0, 0.5)
        assert siglip_loss(scores, positives, scale=2.0, bias=0.5).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("size", [1.0, 1e4, 1e20, 1e30])
def test_huge_scores_neither_overflow_nor_lose_the_gradient(size):
    scores = (torch.randn(6, 6, generator=torch.Generator().manual_seed(5)) * size).requires_grad_()
    scale, bias = torch.tensor(100.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    loss = siglip_loss(scores, scale=scale, bias=bias)
    loss.backward()
    expected = definition(scores.double().tolist(), torch.eye(6, dtype=torch.bool).tolist(), 100.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert scores.grad.abs().sum() > 0
    for gradient in (scores.grad, scale.grad, bias.grad):
        assert torch.isfinite(gradient).all()


def test_what_no_float_can_hold_is_infinite_and_never_nan():
    scores = torch.full((3, 3), 3e38).fill_diagonal_(-3e38).requires_grad_()
    loss = siglip_loss(scores, bias=torch.tensor(-10.0, requires_grad=True))
    loss.backward()
    assert loss.item() == math.inf
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad.diagonal() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_computed_in_float32(dtype):
    scores = (torch.randn(6, 6, generator=torch.Generator().manual_seed(6)) * 6e4).clamp(-6e4, 6e4).to(dtype)
    scores.requires_grad_()
    loss = siglip_loss(scores, scale=torch.tensor(10.0, dtype=torch.float64))
    loss.backward()
    assert loss.dtype is torch.float32
    expected = definition(scores.double().tolist(), torch.eye(6, dtype=torch.bool).tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert scores.grad.dtype is dtype
    assert torch.isfinite(scores.grad).all()


def test_a_batch_of_one_asks_whether_its_pair_matches():
    scores = torch.full((1, 1), 1.0, requires_grad=True)
    loss = siglip_loss(scores)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert scores.grad.item() == pytest.approx(-5.0)


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    positives = worked_labels >= 0.7
    fixed, learned = SigLIPLoss(3.0, -1.0, learned=False), SigLIPLoss(4.0, -2.0).double()
    assert list(fixed(worked_scores)) == ["siglip"]
    assert torch.equal(fixed(worked_scores)["siglip"], siglip_loss(worked_scores, scale=3.0, bias=-1.0))
    torch.testing.assert_close(
        learned(worked_scores, positives)["siglip"],
        siglip_loss(worked_scores, positives, scale=4.0, bias=-2.0),
        rtol=1e-6,
        atol=0,
    )
    assert not list(fixed.parameters())
    assert {name: p.shape for name, p in learned.named_parameters()} == {"log_scale": (), "bias": ()}
    assert repr(fixed) == "SigLIPLoss(scale=3.0, bias=-1.0, learned=False)"


def test_learned_parameters_are_float32_and_move_apart_what_is_apart():
    module = SigLIPLoss()
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    scores = torch.full((4, 4), 0.1).fill_diagonal_(0.5)
    for _ in range(300):
        optimiser.zero_grad()
        module(scores)["siglip"].backward()
        optimiser.step()
    assert module(scores)["siglip"].item() < 0.2


def test_module_passes_the_rectangles_on(worked_scores):
    eye = torch.eye(4, dtype=torch.bool)
    rectangles = {"t2i_scores": worked_scores.T[:2] * 0.5, "t2i_positives": eye[:2], "workers": Known(4.0)}
    value = SigLIPLoss(learned=False)(worked_scores[:2], eye[:2], **rectangles)["siglip"]
    assert torch.equal(value, siglip_loss(worked_scores[:2], eye[:2], **rectangles))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.zeros(2, 3)}, ShapeError, r"scores: shape \(2, 3\) has no diagonal"),
        ({"scores": torch.full((2, 2), torch.nan)}, ShapeError, "scores: nan at row 0"),
        ({"scale": 0.0}, ConfigError, "scale: 0.0, expected a number above 0"),
        ({"scale": torch.ones(3)}, ShapeError, r"scale: shape \(3,\)"),
        ({"bias": torch.ones(3)}, ShapeError, r"bias: shape \(3,\)"),
        ({"t2i_scores": torch.zeros(3, 4)}, ShapeError, "Pass t2i_positives"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        siglip_loss(**({"scores": torch.zeros(3, 3)} | arguments))


@pytest.mark.parametrize("learned", [True, False])
def test_a_scale_of_zero_is_refused_at_once(learned):
    with pytest.raises(ConfigError, match=r"scale: 0\.0"):
        SigLIPLoss(0.0, learned=learned)
