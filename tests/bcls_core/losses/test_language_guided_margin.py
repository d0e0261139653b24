from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses import LanguageGuidedMarginLoss, info_nce_loss, language_guided_margin_loss
from bcls_core.workers import Workers


class Known(Workers):
    """One of two workers, where the normalisers of the whole batch are known."""

    def __init__(self, rows: float) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "rows_of_all", rows)

    def sum(self, values):
        return torch.full_like(values, self.rows_of_all)


def number_of(threshold, labels, positives):
    """A threshold in label units: percentiles are numpy's, over the labels of what is no positive."""
    if not isinstance(threshold, str):
        return threshold
    others = [
        label for row, own in zip(labels, positives, strict=True) for label, p in zip(row, own, strict=True) if not p
    ]
    return float(np.percentile(others, float(threshold[1:]))) if others else 0.0


def margin_of(label, positive, margin, at):
    """One candidate's margin, from the formula, in plain Python floats."""
    if positive:
        return 0.0
    if label < at:
        return margin
    return margin * max(0.0, 1 - label) / (1 - at) if at < 1 else 0.0


def row_cost(logits, own):
    """Cross-entropy with a target that the positives share uniformly."""
    top = max(logits)
    log_normaliser = top + math.log(sum(math.exp(x - top) for x in logits))
    return sum(log_normaliser - x for x, p in zip(logits, own, strict=True) if p) / sum(own)


def transposed(matrix):
    return list(zip(*matrix, strict=True))


def definition(scores, labels, positives, tau=0.02, margin=0.2, threshold="p70"):
    """Nested loops over queries and candidates, both directions, one threshold for both."""
    at, means = number_of(threshold, labels, positives), []
    for s, r, p in ((scores, labels, positives), tuple(map(transposed, (scores, labels, positives)))):
        costs = []
        for row, label, own in zip(s, r, p, strict=True):
            if any(own):
                raised = [x + margin_of(y, z, margin, at) for x, y, z in zip(row, label, own, strict=True)]
                costs.append(row_cost([x / tau for x in raised], own))
        means.append(sum(costs) / len(costs) if costs else 0.0)
    return sum(means) / 2


def naive_loss(scores, labels, positives, tau, margin, threshold):
    """The same with tensors, query by query, for automatic differentiation."""
    at = number_of(threshold, labels.tolist(), positives.tolist())
    total = scores.sum() * 0
    for s, r, p in ((scores, labels, positives), (scores.T, labels.T, positives.T)):
        for row, label, own in zip(s, r, p, strict=True):
            if own.any():
                margins = [margin_of(y, z, margin, at) for y, z in zip(label.tolist(), own.tolist(), strict=True)]
                logits = (row + torch.tensor(margins, dtype=row.dtype)) / tau
                total = total - logits.log_softmax(0)[own].mean() / p.any(1).sum() / 2
    return total


@st.composite
def graded_batches(draw):
    """Scores and labels on coarse grids: many exact ties, and labels at the threshold and above 1."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    score = st.integers(-20, 20).map(lambda n: n / 20)
    label = st.sampled_from([-0.25, 0.0, 0.25, 0.3, 0.5, 0.75, 1.0, 1.25])
    matrices = [[[draw(value) for _ in range(columns)] for _ in range(rows)] for value in (score, label, st.booleans())]
    return tuple(matrices)


SETTINGS = [
    {},
    {"tau": 0.05, "threshold": 0.5},
    {"tau": 0.5, "margin": 0.4, "threshold": -0.3},
    {"tau": 0.1, "margin": 1.0, "threshold": "p0"},
    {"tau": 0.1, "threshold": "p37.5"},
    {"tau": 0.1, "threshold": "p100"},
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 4.908993441384187),
        ({"tau": 0.1}, 1.2797857238892494),
        ({"tau": 0.1, "threshold": 0.5}, 1.3427540519703802),
        ({"tau": 0.1, "margin": 0.0}, 0.5910827061394156),  # InfoNCE's
    ],
)
def test_worked_batch_gives_the_known_values(worked_scores, worked_labels, arguments, expected):
    value = language_guided_margin_loss(worked_scores, worked_labels, **arguments)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_worked_batch_with_several_positives(worked_scores, worked_labels):
    value = language_guided_margin_loss(worked_scores, worked_labels, worked_labels >= 0.7, tau=0.1)
    assert value.item() == pytest.approx(1.3756334534408179, rel=1e-12)


def test_the_seventieth_percentile_of_the_worked_batch(worked_scores, worked_labels):
    # Of twelve labels the ranks 7 and 8 are 0.35 and 0.5; 70 is rank 7.7.
    of_percentile, of_number = (
        language_guided_margin_loss(worked_scores, worked_labels, threshold=threshold) for threshold in ("p70", 0.455)
    )
    torch.testing.assert_close(of_percentile, of_number, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("label", "margin"), [(0.4, 0.2), (0.5, 0.2), (0.625, 0.15), (0.75, 0.1), (1.0, 0.0), (1.5, 0.0), (-3.0, 0.2)]
)
def test_one_candidate_by_hand(label, margin):
    scores, labels = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, label]], dtype=torch.float64)
    loss = language_guided_margin_loss(scores, labels, torch.tensor([[True, False]]), tau=0.1, threshold=0.5)
    # A second caption of another image has no row with a positive; the first has no candidate but its image.
    assert loss.item() == pytest.approx(math.log1p(math.exp(margin / 0.1)) / 2, rel=1e-13)


@pytest.mark.parametrize("arguments", SETTINGS)
@settings(max_examples=40, deadline=None)
@given(case=graded_batches())
def test_equals_the_definition_for_any_positives(arguments, case):
    scores, labels, positives = case
    tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    loss = language_guided_margin_loss(
        tensor, torch.tensor(labels, dtype=torch.float64), torch.tensor(positives), **arguments
    )
    loss.backward()
    assert loss.item() == pytest.approx(definition(*case, **arguments), rel=1e-12, abs=1e-12)
    assert torch.isfinite(tensor.grad).all()


@settings(max_examples=40, deadline=None)
@given(case=graded_batches(), arguments=st.sampled_from(SETTINGS[1:]))
def test_gradient_is_that_of_the_formula(case, arguments):
    scores, labels, positives = (torch.tensor(matrix) for matrix in case)
    scores, labels = scores.double().requires_grad_(), labels.double()
    (gradient,) = torch.autograd.grad(language_guided_margin_loss(scores, labels, positives, **arguments), scores)
    every = {"margin": 0.2} | arguments
    (expected,) = torch.autograd.grad(naive_loss(scores, labels, positives, **every), scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("threshold", ["p70", 0.5])
@pytest.mark.parametrize("several", [False, True])
def test_gradients_of_scores_and_temperature_are_those_of_finite_differences(several, threshold):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.rand(5, 5, generator=generator)
    positives = torch.rand(5, 5, generator=generator) < 0.4 if several else None
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def loss(s, t):
        return language_guided_margin_loss(s, labels, positives, tau=t, threshold=threshold)

    assert torch.autograd.gradcheck(loss, (scores, tau))


@pytest.mark.parametrize("text", ["p0", "p12.5", "p70", "p99", "p100"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_percentile_is_numpys_over_the_pairs_that_are_no_positives(text, dtype):
    generator = torch.Generator().manual_seed(2)
    scores, labels = torch.randn(2, 7, 9, dtype=torch.float64, generator=generator)
    labels = (labels.tanh() * 0.9).to(dtype)
    positives = torch.rand(7, 9, generator=generator) < 0.3
    at = float(np.percentile(labels[~positives].double().numpy(), float(text[1:])))
    found, expected = (
        language_guided_margin_loss(scores, labels, positives, tau=0.1, threshold=threshold) for threshold in (text, at)
    )
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)


def test_the_percentile_is_over_image_rows_where_the_other_direction_has_labels_of_its_own():
    generator = torch.Generator().manual_seed(3)
    scores, labels = torch.randn(4, 4, generator=generator), torch.rand(4, 4, generator=generator)
    eye = torch.eye(4, dtype=torch.bool)
    rectangles = {"t2i_scores": scores.T[:2], "t2i_labels": labels.T[:2] * 0.3, "t2i_positives": eye[:2]}
    at = float(np.percentile(labels[~eye].double().numpy(), 70))
    values = [
        language_guided_margin_loss(scores, labels, eye, threshold=threshold, **rectangles) for threshold in ("p70", at)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_label_that_rounds_to_the_threshold_has_the_margin_and_never_more(dtype):
    below = 1 - torch.finfo(dtype).eps / 2  # the largest number below 1
    at = below + torch.finfo(dtype).eps / 5  # rounds to it
    labels = torch.tensor([[1.0, below]], dtype=dtype)
    loss = language_guided_margin_loss(torch.zeros(1, 2), labels, torch.tensor([[True, False]]), tau=0.1, threshold=at)
    assert loss.item() == pytest.approx(math.log1p(math.exp(2)) / 2, rel=1e-6)


def test_a_percentile_of_one_or_more_leaves_no_margin_to_what_reaches_it():
    scores, positives = torch.zeros(1, 3), torch.tensor([[True, False, False]])
    for label in (1.0, 1.5):
        labels = torch.tensor([[0.0, label, label]])
        value = language_guided_margin_loss(scores, labels, positives, tau=0.1)
        torch.testing.assert_close(value, info_nce_loss(scores, positives, tau=0.1))
    labels = torch.tensor([[0.0, 0.5, 2.0]])  # the 70th percentile is 1.55
    value = language_guided_margin_loss(scores, labels, positives, tau=0.1)
    assert value.item() == pytest.approx(math.log(2 + math.exp(2)) / 2, rel=1e-6)


def test_labels_of_positives_are_not_read():
    generator = torch.Generator().manual_seed(4)
    scores, labels = torch.randn(5, 6, generator=generator), torch.rand(5, 6, generator=generator)
    positives = torch.rand(5, 6, generator=generator) < 0.4
    other = torch.where(positives, torch.randn(5, 6, generator=generator), labels)
    found, expected = (language_guided_margin_loss(scores, given, positives) for given in (other, labels))
    assert torch.equal(found, expected)


def test_no_gradient_reaches_the_labels():
    scores, labels = torch.zeros(3, 3, requires_grad=True), torch.rand(3, 3, requires_grad=True)
    language_guided_margin_loss(scores, labels).backward()
    assert labels.grad is None
    assert scores.grad is not None


@pytest.mark.parametrize("threshold", ["p70", 0.5])
@pytest.mark.parametrize("positive", [False, True])
def test_without_positives_or_without_negatives(threshold, positive):
    scores = torch.zeros(3, 4, requires_grad=True)
    positives = torch.full((3, 4), positive)
    loss = language_guided_margin_loss(scores, torch.rand(3, 4), positives, threshold=threshold)
    loss.backward()
    assert loss.item() == pytest.approx((math.log(4) + math.log(3)) / 2 if positive else 0.0, abs=1e-6)
    assert scores.grad.abs().max() < 1e-6


def test_a_batch_of_one_is_zero():
    scores = torch.full((1, 1), 0.3, requires_grad=True)
    loss = language_guided_margin_loss(scores, torch.ones(1, 1))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.item() == 0.0


def test_shares_of_two_workers_add_up_to_the_whole_batch():
    generator = torch.Generator().manual_seed(5)
    scores, labels = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    eye = torch.eye(6, dtype=torch.bool)
    parts = [
        LanguageGuidedMarginLoss(threshold=0.4)(
            scores[mine],
            labels[mine],
            eye[mine],
            t2i_scores=scores.T[mine],
            t2i_labels=labels.T[mine],
            t2i_positives=eye.T[mine],
            workers=Known(6.0),
        )["language-guided-margin"]
        for mine in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), language_guided_margin_loss(scores, labels, threshold=0.4))


@pytest.mark.parametrize("label_size", [0.0, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4, 1e30])
def test_any_magnitude_of_scores_and_labels_gives_a_finite_gradient(size, dtype, label_size):
    generator = torch.Generator().manual_seed(6)
    largest, largest_label = (min(x, 6e4) if dtype is torch.float16 else x for x in (size, label_size))
    scores = ((torch.rand(6, 6, generator=generator) * 2 - 1) * largest).to(dtype).requires_grad_()
    labels = ((torch.rand(6, 6, generator=generator) * 2 - 1) * largest_label).to(dtype)
    tau = torch.tensor(0.02, requires_grad=True)
    loss = language_guided_margin_loss(scores, labels, tau=tau)
    loss.backward()
    eye = torch.eye(6, dtype=torch.bool)
    at = torch.tensor(number_of("p70", labels.tolist(), eye.tolist())).to(dtype).item()
    expected = definition(scores.tolist(), labels.tolist(), eye.tolist(), threshold=at)
    assert loss.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(expected, rel=1e-4 if dtype in (torch.float32, torch.float64) else 0.02)
    assert scores.grad.dtype is dtype
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() > 0
    assert math.isfinite(tau.grad.item())


def test_what_no_float_can_hold_is_infinite_and_never_nan():
    scores = torch.full((3, 3), 3e38).fill_diagonal_(-3e38).requires_grad_()
    labels = torch.tensor([[1.0, 3e38, -3e38], [-3e38, 1.0, 3e38], [0.0, 3e38, 1.0]])
    loss = language_guided_margin_loss(scores, labels)
    loss.backward()
    assert loss.item() == math.inf
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad.diagonal() < 0).all()


def test_module_returns_the_function_as_a_named_term(worked_scores, worked_labels):
    module = LanguageGuidedMarginLoss(tau=0.1, margin=0.3, threshold=0.4)
    positives = worked_labels >= 0.7
    terms = module(worked_scores, worked_labels, positives)
    expected = language_guided_margin_loss(worked_scores, worked_labels, positives, tau=0.1, margin=0.3, threshold=0.4)
    assert list(terms) == ["language-guided-margin"]
    assert torch.equal(terms["language-guided-margin"], expected)
    assert not list(module.parameters())
    assert repr(module) == "LanguageGuidedMarginLoss(tau=0.1, margin=0.3, threshold=0.4)"
    defaults = LanguageGuidedMarginLoss()
    assert (defaults.tau, defaults.margin, defaults.threshold) == (0.02, 0.2, "p70")
    assert torch.equal(
        defaults(worked_scores, worked_labels)["language-guided-margin"],
        language_guided_margin_loss(worked_scores, worked_labels),
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"threshold": 1.0}, ConfigError, "threshold: 1.0, expected a number below 1, the relevance of a match"),
        ({"threshold": math.nan}, ConfigError, "threshold: nan, expected a number below 1"),
        ({"threshold": "70"}, ConfigError, "threshold: '70', expected a number in label units or a percentile"),
        ({"threshold": "p101"}, ConfigError, "threshold: 'p101', expected a number in label units or a percentile"),
        ({"tau": 0.0}, ConfigError, "tau: 0.0, expected a number above 0"),
        ({"tau": torch.ones(3)}, ShapeError, r"tau: shape \(3,\)"),
        ({"scores": torch.zeros(2, 3), "labels": torch.zeros(2, 3)}, ShapeError, r"\(2, 3\) has no diagonal"),
        ({"labels": torch.zeros(3, 2)}, ShapeError, r"labels: shape \(3, 2\), but scores has \(3, 3\)"),
        ({"labels": torch.zeros(3, 3, dtype=torch.int64)}, ShapeError, "labels: torch.int64"),
        ({"labels": torch.full((3, 3), torch.nan)}, ShapeError, "labels: nan at row 0"),
        ({"scores": torch.full((3, 3), torch.inf)}, ShapeError, "scores: inf at row 0"),
        ({"positives": torch.zeros(3, 3)}, ShapeError, r"positives: torch.float32"),
        ({"t2i_scores": torch.zeros(3, 3)}, ShapeError, "t2i_labels: missing"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        language_guided_margin_loss(**({"scores": torch.zeros(3, 3), "labels": torch.zeros(3, 3)} | arguments))


def test_a_threshold_beyond_the_range_of_the_labels_has_everybody_close(worked_scores, worked_labels):
    out_of_range = language_guided_margin_loss(worked_scores, worked_labels.half(), threshold=-1e30)
    assert out_of_range == pytest.approx(info_nce_loss(worked_scores, tau=0.02).item())  # margins next to zero
