from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses import KendallLoss, gap_percentile, kendall_loss

SURROGATES = ["hinge", "softplus", "sigmoid", "tanh"]
GRID = [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0]  # decimal differences round to either side of decimal gaps


def ordered_pairs(row, gap):
    """(j, k) whose difference, rounded in the row's own dtype, is above the gap in that dtype."""
    threshold = row.dtype.type(gap)
    return [(j, k) for j, k in product(range(len(row)), repeat=2) if row[j] - row[k] > threshold]


def pair_cost(d, surrogate, tau):
    x = d / tau
    if surrogate == "hinge":
        return max(d, 0.0)
    if surrogate == "softplus":
        return tau * (max(x, 0.0) + math.log1p(math.exp(-abs(x))))
    if surrogate == "sigmoid":
        return math.exp(min(x, 0.0)) / (1 + math.exp(-abs(x)))
    return 1 + math.tanh(x)


def taken_pairs(row, scores, gap, sampling, window, stride, hard):
    """The pairs of one query that the loss takes, each as often as it counts."""
    pairs = ordered_pairs(row, gap)
    if sampling == "exact" and not hard:
        return pairs
    distinct = sorted(set(row.tolist()), reverse=True)
    place = [distinct.index(value) for value in row.tolist()]
    if sampling == "local":
        groups = [
            [(j, k) for j, k in pairs if start <= place[j] < start + window // 2 <= place[k] < start + window]
            for start in range(0, len(row), stride or max(window // 2, 1))
        ]
    else:
        groups = [
            [(j, k) for j, k in pairs if j == winner and place[k] >= place[j] + window] for winner in range(len(row))
        ]
    if hard:
        groups = [[max(group, key=lambda pair: scores[pair[1]] - scores[pair[0]])] for group in groups if group]
    return [pair for group in groups for pair in group]


def direction_definition(
    scores, labels, gap, surrogate, margin, tau, normalise, sampling="exact", window=1, stride=None, hard=False
):
    """One direction: nested loops over the formula, in plain Python floats."""
    queries = [
        [
            pair_cost(s[k] - s[j] + margin, surrogate, tau)
            for j, k in taken_pairs(row, s, gap, sampling, window, stride, hard)
        ]
        for s, row in zip(scores.tolist(), labels, strict=True)
    ]
    if normalise == "batch":
        queries = [[cost for costs in queries for cost in costs]]
    means = [sum(costs) / len(costs) for costs in queries if costs]
    return sum(means) / len(means) if means else 0.0


def definition(scores, labels, gap=0.0, surrogate="hinge", margin=0.0, tau=0.05, normalise="batch", **windows):
    settings_ = (gap, surrogate, margin, tau, normalise)
    i2t = direction_definition(scores, labels, *settings_, **windows)
    return (i2t + direction_definition(scores.T, labels.T, *settings_, **windows)) / 2


@st.composite
def batches(draw, largest=6):
    rows, columns = draw(st.integers(1, largest)), draw(st.integers(1, largest))

    def matrix(values, dtype):
        return np.array([[draw(st.sampled_from(values)) for _ in range(columns)] for _ in range(rows)], dtype=dtype)

    scores = matrix([n / 10 for n in range(-10, 11)], np.float64)
    return scores, matrix(GRID, draw(st.sampled_from([np.float64, np.float32])))


def test_worked_batch_gives_the_printed_values(worked_scores, worked_labels):
    assert kendall_loss(worked_scores, worked_labels).item() == pytest.approx(0.00729167, abs=5e-9)
    assert kendall_loss(worked_scores, worked_labels, gap=0.28).item() == pytest.approx(0.0046875, abs=1e-15)


def test_text_to_image_reads_the_transposed_labels(worked_scores, worked_labels):
    wrong = kendall_loss(worked_scores, worked_labels, gap=0.28, t2i_labels=worked_labels)
    assert wrong.item() == pytest.approx(0.00625, abs=1e-15)


@pytest.mark.parametrize("surrogate", SURROGATES)
@settings(max_examples=60, deadline=None)
@given(
    case=batches(),
    gap=st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1.0]),
    margin=st.sampled_from([0.0, 0.1]),
    normalise=st.sampled_from(["batch", "query"]),
)
def test_equals_the_definition_with_ties_and_gaps_that_are_met_exactly(surrogate, case, gap, margin, normalise):
    scores, labels = case
    tensor = torch.tensor(scores, requires_grad=True)
    chosen = {"gap": gap, "surrogate": surrogate, "margin": margin, "tau": 0.07, "normalise": normalise}
    loss = kendall_loss(tensor, torch.tensor(labels), **chosen)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores, labels, **chosen), rel=1e-12, abs=1e-14)
    assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("sampling", ["exact", "dead-zone", "local"])
@pytest.mark.parametrize("surrogate", SURROGATES)
@settings(max_examples=40, deadline=None)
@given(
    case=batches(9),
    gap=st.sampled_from([0.0, 0.1, 0.3]),
    margin=st.sampled_from([0.0, 0.1]),
    normalise=st.sampled_from(["batch", "query"]),
    window=st.integers(2, 6),
    stride=st.sampled_from([None, 1, 2, 3]),
)
def test_sliding_windows_and_hard_mining_equal_the_definition(
    surrogate, sampling, hard, case, gap, margin, normalise, window, stride
):
    scores, labels = case
    tensor = torch.tensor(scores, requires_grad=True)
    windows = {"sampling": sampling, "window": 1 if sampling == "exact" else window, "stride": stride, "hard": hard}
    chosen = {"gap": gap, "surrogate": surrogate, "margin": margin, "tau": 0.07, "normalise": normalise}
    loss = kendall_loss(tensor, torch.tensor(labels), **chosen, **windows)
    loss.backward()
    assert loss.item() == pytest.approx(definition(scores, labels, **chosen, **windows), rel=1e-12, abs=1e-14)
    assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_dead_zone_of_one_position_is_the_exact_loss(surrogate):
    generator = torch.Generator().manual_seed(12)
    scores = torch.randint(-9, 9, (30, 30), generator=generator).double() / 10
    labels = torch.randint(0, 9, (30, 30), generator=generator).double() / 10
    results = []
    for windows in ({}, {"sampling": "dead-zone", "window": 1}):
        leaf = scores.clone().requires_grad_()
        loss = kendall_loss(leaf, labels, gap=0.1, surrogate=surrogate, **windows)
        loss.backward()
        results.append((loss, leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("dtype", "pair", "gap", "ordered"),
    [
        (torch.float64, (0.3, 0.1), 0.2, False),  # 0.19999999999999998
        (torch.float64, (0.8, 0.5), 0.3, True),  # 0.30000000000000004
        (torch.float32, (0.8, 0.5), 0.3, False),  # the same labels, rounded to 0.3 exactly
        (torch.float32, (0.9, 0.6), 0.3, False),  # 0.29999995
        (torch.float64, (0.75, 0.25 - 2**-56), 0.5, False),  # a little above 0.5, rounded to it
        (torch.float32, (0.75, 0.25 - 2**-27), 0.5, False),
        (torch.float16, (0.75, 0.25 - 2**-13), 0.5, False),
        (torch.bfloat16, (0.75, 0.25 - 2**-10), 0.5, False),
        (torch.bfloat16, (1.0, 0.001), 0.9985, False),  # 0.999 is rounded to 1, and so is the gap
        (torch.float32, (1.0, 0.001), 0.9985, True),
    ],
)
def test_a_pair_counts_by_the_difference_as_the_labels_dtype_rounds_it(dtype, pair, gap, ordered):
    labels = torch.tensor([pair], dtype=dtype)
    scores = torch.tensor([[0.0, 1.0]])
    assert kendall_loss(scores, labels, gap=gap).item() == (0.5 if ordered else 0.0)  # text-to-image has one image


WINDOWS = {
    "exact": {},
    "exact hard": {"hard": True},
    "dead-zone": {"sampling": "dead-zone", "window": 2},
    "dead-zone hard": {"sampling": "dead-zone", "window": 2, "hard": True},
    "local": {"sampling": "local", "window": 4, "stride": 1},
    "local hard": {"sampling": "local", "window": 4, "stride": 1, "hard": True},
}


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("normalise", ["batch", "query"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gradient_is_that_of_finite_differences(surrogate, normalise, windows):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.rand(5, 6, generator=generator)
    chosen = {"gap": 0.1, "surrogate": surrogate, "margin": 0.05, "tau": 0.3, "normalise": normalise}

    def loss(s):
        return kendall_loss(s, labels, **chosen, **WINDOWS[windows])

    assert torch.autograd.gradcheck(loss, (scores,))


@pytest.mark.parametrize("gap", [0.1, "p60"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_order_of_the_batch_does_not_matter(surrogate, gap):
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(-9, 9, (9, 9), generator=generator).double() / 10
    labels = torch.randint(0, 9, (9, 9), generator=generator).float() / 10
    order = torch.randperm(9, generator=generator)
    plain, shuffled = scores.clone().requires_grad_(), scores[order][:, order].clone().requires_grad_()
    value = kendall_loss(plain, labels, surrogate=surrogate, gap=gap)
    other = kendall_loss(shuffled, labels[order][:, order], surrogate=surrogate, gap=gap)
    value.backward()
    other.backward()
    assert value.item() > 0
    assert other.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(shuffled.grad, plain.grad[order][:, order])


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_both_directions_weigh_the_same(surrogate):
    generator = torch.Generator().manual_seed(3)
    scores, labels = torch.randn(4, 7, generator=generator), torch.rand(4, 7, generator=generator)
    flipped = kendall_loss(scores.T, labels.T, gap=0.2, surrogate=surrogate)
    torch.testing.assert_close(flipped, kendall_loss(scores, labels, gap=0.2, surrogate=surrogate))


def test_a_transposed_direction_may_be_another_rectangle():
    generator = np.random.default_rng(4)
    ours, theirs = generator.standard_normal((2, 6)), generator.standard_normal((3, 5))
    labels, flipped = generator.random((2, 6)), generator.random((3, 5))
    loss = kendall_loss(
        torch.tensor(ours), torch.tensor(labels), t2i_scores=torch.tensor(theirs), t2i_labels=torch.tensor(flipped)
    )
    parts = [
        direction_definition(s, r, 0.0, "hinge", 0.0, 1.0, "batch") for s, r in ((ours, labels), (theirs, flipped))
    ]
    assert loss.item() == pytest.approx(sum(parts) / 2, rel=1e-12)


@pytest.mark.parametrize("normalise", ["batch", "query"])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("size", [1, 4])
def test_without_an_ordered_pair_loss_and_gradient_are_zero(size, surrogate, normalise):
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(5)).requires_grad_()
    loss = kendall_loss(scores, torch.full((size, size), 0.3), surrogate=surrogate, normalise=normalise, margin=0.5)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(size, size))


def test_small_temperatures_give_hinge_discordant_fraction_and_gamma():
    generator = np.random.default_rng(6)
    scores, labels = generator.standard_normal((8, 8)), generator.integers(0, 4, (8, 8)) / 4
    tensors = torch.tensor(scores), torch.tensor(labels)
    halves = [
        [s[k] > s[j] for s, row in zip(*pair, strict=True) for j, k in ordered_pairs(row, 0.0)]
        for pair in ((scores, labels), (scores.T, labels.T))
    ]
    fraction = np.mean([np.mean(half) for half in halves])
    assert kendall_loss(*tensors, surrogate="sigmoid", tau=1e-6).item() == pytest.approx(fraction, abs=1e-9)
    assert kendall_loss(*tensors, surrogate="tanh", tau=1e-6).item() == pytest.approx(2 * fraction, abs=1e-9)
    hinge = kendall_loss(*tensors).item()
    assert kendall_loss(*tensors, surrogate="softplus", tau=1e-6).item() == pytest.approx(hinge, abs=1e-9)


def test_tanh_tends_to_one_minus_tau_where_nothing_is_tied():
    generator = np.random.default_rng(7)
    scores, labels = generator.standard_normal((6, 6)), generator.permutation(36).reshape(6, 6) / 36
    tau = [
        stats.kendalltau(s, row).statistic
        for pair in ((scores, labels), (scores.T, labels.T))
        for s, row in zip(*pair, strict=True)
    ]
    loss = kendall_loss(torch.tensor(scores), torch.tensor(labels), surrogate="tanh", tau=1e-6)
    assert loss.item() == pytest.approx(1 - np.mean(tau), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_finite_scores_of_any_size_give_a_finite_loss_and_gradient(surrogate, dtype):
    largest = 1e30 if dtype in (torch.float64, torch.float32) else 6e4
    scores = (torch.randn(6, 6, generator=torch.Generator().manual_seed(8)).clamp(-1, 1) * largest).to(dtype)
    scores.requires_grad_()
    labels = torch.rand(6, 6, generator=torch.Generator().manual_seed(9)).to(dtype)
    loss = kendall_loss(scores, labels, surrogate=surrogate, gap=0.1)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert torch.isfinite(loss)
    assert scores.grad.dtype is dtype
    assert torch.isfinite(scores.grad).all()


def test_a_percentile_gap_is_that_of_the_image_rows(worked_scores):
    labels = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(10))
    differences = [
        abs(labels[i, j] - labels[i, k]).item() for i, j, k in product(range(4), repeat=3) if j < k and i not in (j, k)
    ]
    gap = float(np.percentile(differences, 60))
    assert gap_percentile(labels, 60) == pytest.approx(gap, abs=1e-15)
    assert torch.equal(kendall_loss(worked_scores, labels, gap="p60"), kendall_loss(worked_scores, labels, gap=gap))


def test_a_percentile_gap_leaves_all_positives_out(worked_scores, worked_labels):
    positives = torch.eye(4, dtype=torch.bool)
    positives[0, 1] = positives[2, 3] = True
    differences = [
        abs(worked_labels[i, j] - worked_labels[i, k]).item()
        for i, j, k in product(range(4), repeat=3)
        if j < k and not positives[i, j] and not positives[i, k]
    ]
    loss = kendall_loss(worked_scores, worked_labels, gap="p50", positives=positives)
    expected = definition(worked_scores.numpy(), worked_labels.numpy(), gap=float(np.percentile(differences, 50)))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("surrogate", "gap", "size", "block"),
    [*((surrogate, 0.1, 120, 2**13) for surrogate in SURROGATES), ("hinge", "p60", 256, 2 * 256**2)],
)
def test_memory_is_quadratic_and_one_block(surrogate, gap, size, block, largest_tensors, monkeypatch):
    monkeypatch.setattr("bcls_core.losses.blocks.CPU_BLOCK", block)
    generator = torch.Generator().manual_seed(11)
    scores = torch.randn(size, size, generator=generator, requires_grad=True)
    labels = torch.rand(size, size, generator=generator)
    made, saved = largest_tensors(lambda: kendall_loss(scores, labels, surrogate=surrogate, gap=gap))
    assert made <= max(block, size * size)
    assert saved <= size * size


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    held = {"sampling": "local", "window": 3, "stride": 1, "hard": True}
    module = KendallLoss(gap="p40", surrogate="tanh", margin=0.1, tau=0.2, normalise="query", **held)
    terms = module(worked_scores, worked_labels)
    expected = kendall_loss(
        worked_scores, worked_labels, gap="p40", surrogate="tanh", margin=0.1, tau=0.2, normalise="query", **held
    )
    assert list(terms) == ["kendall"]
    assert torch.equal(terms["kendall"], expected)
    assert "gap='p40'" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.full((3, 3), float("nan"))}, ShapeError, "scores: nan at row 0, column 0; 9 of the 9"),
        ({"labels": torch.full((3, 3), float("inf"))}, ShapeError, "labels: inf at row 0, column 0"),
        ({"labels": torch.zeros(3, 4)}, ShapeError, r"labels: shape \(3, 4\), but scores has \(3, 3\)"),
        ({"t2i_scores": torch.zeros(3, 3)}, ShapeError, "t2i_labels: missing"),
        ({"t2i_labels": torch.zeros(3, 2)}, ShapeError, "t2i_labels: shape"),
        ({"scores": torch.zeros(2, 3), "labels": torch.zeros(2, 3), "gap": "p60"}, ShapeError, "no diagonal"),
        ({"margin": float("inf")}, ConfigError, "margin: inf"),
        ({"gap": "60%"}, ConfigError, "gap: '60%'"),
        ({"gap": "p101"}, ConfigError, "gap: 'p101', expected a number in label units or a percentile"),
        ({"gap": -0.1}, ConfigError, "gap: -0.1"),
        ({"surrogate": "relu"}, ConfigError, "surrogate: 'relu'"),
        ({"sampling": "all"}, ConfigError, "sampling: 'all', expected one of exact"),
        ({"window": 3}, ConfigError, "window=3 with sampling='exact'"),
        ({"sampling": "dead-zone", "window": 0}, ConfigError, "window: 0, expected at least 1"),
        ({"sampling": "local"}, ConfigError, "window: 1, expected at least 2"),
        ({"sampling": "local", "window": 4, "stride": 0}, ConfigError, "stride: 0"),
        ({"normalise": "mean"}, ConfigError, "normalise: 'mean'"),
        ({"tau": -1.0}, ConfigError, "tau: -1.0"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        kendall_loss(**({"scores": torch.zeros(3, 3), "labels": torch.zeros(3, 3)} | arguments))
