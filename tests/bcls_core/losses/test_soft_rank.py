from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.losses.soft_rank import soft_ranks


def sigmoid(x):
    return math.exp(min(x, 0.0)) / (1 + math.exp(-abs(x)))


def definition(row, tau):
    """One row, from the formula, in plain Python floats."""
    return [1 + sum(sigmoid((o - s) / tau) for k, o in enumerate(row) if k != j) for j, s in enumerate(row)]


def naive_ranks(scores, tau):
    """All pairs at once, for autograd."""
    return 0.5 + torch.sigmoid((scores[:, None, :] - scores[:, :, None]) / tau).sum(2)


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    score = st.integers(-10, 10).map(lambda n: n / 10)
    return [[draw(score) for _ in range(columns)] for _ in range(rows)]


@settings(max_examples=60, deadline=None)
@given(rows=matrices(), tau=st.sampled_from([0.01, 0.1, 2.0]))
def test_equals_the_definition_with_its_gradient(rows, tau):
    scores = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    weights = torch.linspace(-1, 2, scores.numel(), dtype=torch.float64).view_as(scores)
    ranks = soft_ranks(scores, tau)
    (gradient,) = torch.autograd.grad((ranks * weights).sum(), scores)
    (expected,) = torch.autograd.grad((naive_ranks(scores, tau) * weights).sum(), scores)
    wanted = torch.tensor([definition(row, tau) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(ranks.detach(), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def test_gradient_is_that_of_finite_differences():
    scores = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_ranks(s, 0.3), (scores,))
    assert torch.autograd.gradcheck(lambda s: soft_ranks(s.T, 0.3), (scores,))


def test_small_temperatures_give_the_ranks_and_ties_their_mean():
    scores = torch.tensor([[0.3, 0.9, 0.3, -0.2, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]], dtype=torch.float64)
    expected = stats.rankdata(-scores.numpy(), axis=1)
    torch.testing.assert_close(soft_ranks(scores, 1e-4), torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_have_exactly_the_middle_rank(dtype):
    assert torch.equal(soft_ranks(torch.full((2, 6), 0.3, dtype=dtype), 0.01), torch.full((2, 6), 3.5, dtype=dtype))
    assert torch.equal(soft_ranks(torch.full((2, 1), 0.3, dtype=dtype), 0.01), torch.ones(2, 1, dtype=dtype))


@pytest.mark.parametrize("largest", [1.0, 1e30, 3.4e38])
def test_scores_of_any_size_have_finite_ranks_and_gradients(largest):
    scores = torch.tensor([[-1.0, 1.0, 1.0, 0.0], [1.0, -1.0, 0.5, 0.25]]).mul(largest).requires_grad_()
    ranks = soft_ranks(scores, 0.01)
    (ranks * torch.arange(8.0).view(2, 4)).sum().backward()
    assert ranks.tolist() == [[4.0, 1.5, 1.5, 3.0], [1.0, 4.0, 2.0, 3.0]]
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0].tolist() == [0.0, 25.0, -25.0, 0.0]  # the tie: slope 1/4 over tau


def test_far_pairs_keep_an_exact_gradient():
    scores = torch.tensor([[0.0, 30.0]], requires_grad=True)
    soft_ranks(scores, 1.0)[0, 0].backward()
    slope = math.exp(-30) / (1 + math.exp(-30)) ** 2
    torch.testing.assert_close(scores.grad, torch.tensor([[-slope, slope]]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("block", [1, 7, 64, 200])
def test_blocks_do_not_change_the_result(block, monkeypatch):
    scores = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    weights = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    whole = soft_ranks(scores, 0.2)
    (expected,) = torch.autograd.grad((whole * weights).sum(), scores)
    monkeypatch.setattr("bcls_core.losses.blocks.CPU_BLOCK", block)
    cut = soft_ranks(scores, 0.2)
    (gradient,) = torch.autograd.grad((cut * weights).sum(), scores)
    torch.testing.assert_close(cut, whole)
    torch.testing.assert_close(gradient, expected)


def test_only_the_scores_are_kept_for_the_gradient(largest_tensors):
    scores = torch.randn(40, 50, generator=torch.Generator().manual_seed(4), requires_grad=True)
    assert max(largest_tensors(lambda: soft_ranks(scores, 0.1).sum())) <= 40 * 50


def test_a_second_derivative_is_refused():
    scores = torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_ranks(scores, 0.5).square().sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.sum().backward()


def test_a_compiler_sees_one_operator_each_way():
    scores = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    nodes = []

    def record(graph, inputs):
        nodes.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    compiled = torch.compile(lambda s: soft_ranks(s.T, 0.2).square().sum(), backend=record, fullgraph=True)
    compiled(scores)
    assert len(nodes) == 1
    assert len(nodes[0]) < 10
    compiled = torch.compile(lambda s: soft_ranks(s.T, 0.2).square().sum(), backend="aot_eager", fullgraph=True)
    value, expected = compiled(scores), soft_ranks(scores.T, 0.2).square().sum()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, scores)[0] for loss in (value, expected)))


def test_the_operators_are_registered_as_a_compiler_expects():
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(6)).T.requires_grad_()
    ranks = torch.library.opcheck(torch.ops.bcls.soft_ranks.default, (scores, 0.2))
    backward = torch.library.opcheck(
        torch.ops.bcls.soft_ranks_backward.default, (scores.detach(), scores.detach(), 0.2)
    )
    assert {*ranks.values(), *backward.values()} == {"SUCCESS"}
