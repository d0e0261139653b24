from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses import LadderLoss, ladder_loss, triplet_loss
from bcls_core.workers import Workers

TWO_LEVELS = {"margins": (0.2, 0.01, 0.2), "thresholds": (0.63, 0.3), "weights": (0.25, 0.1)}


class Known(Workers):
    """One of two workers, where the normalisers of the whole batch are known."""

    def __init__(self, rows: float) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "rows_of_all", rows)

    def sum(self, values):
        return torch.full_like(values, self.rows_of_all)


def level_cost(scores, labels, margin, threshold):
    """One query at one level, from the formula, in plain Python floats."""
    relevant = [s for s, r in zip(scores, labels, strict=True) if r >= threshold]
    others = [s for s, r in zip(scores, labels, strict=True) if r < threshold]
    return max(0.0, margin - min(relevant) + max(others)) if relevant and others else 0.0


def triplet_costs(scores, positives, margin):
    """Of each positive of one query, its hinge with the hardest negative."""
    negatives = [s for s, p in zip(scores, positives, strict=True) if not p]
    own = [s for s, p in zip(scores, positives, strict=True) if p]
    return [max(0.0, margin - s + max(negatives)) if negatives else 0.0 for s in own]


def transposed(matrix):
    return list(zip(*matrix, strict=True))


def definition(scores, labels, positives, margins=(0.2, 0.01), thresholds=(0.63,), weights=(0.25,)):
    """The triplet part and the levels, nested loops over queries, both directions."""
    triplet, levels = 0.0, 0.0
    for s, r, p in ((scores, labels, positives), tuple(map(transposed, (scores, labels, positives)))):
        costs = [cost for row, own in zip(s, p, strict=True) for cost in triplet_costs(row, own, margins[0])]
        triplet += sum(costs) / len(costs) / 2 if costs else 0.0
        for margin, threshold, weight in zip(margins[1:], thresholds, weights, strict=True):
            of_queries = [level_cost(row, label, margin, threshold) for row, label in zip(s, r, strict=True)]
            levels += weight * sum(of_queries) / len(of_queries) / 2
    return triplet, levels


def naive_levels(scores, labels, margins, thresholds, weights):
    """The levels alone, query by query, for automatic differentiation."""
    total = scores.sum() * 0
    for s, r in ((scores, labels), (scores.T, labels.T)):
        for margin, threshold, weight in zip(margins[1:], thresholds, weights, strict=True):
            for row, label in zip(s, r, strict=True):
                relevant = row[label >= threshold]
                others = row[label < threshold]
                if len(relevant) and len(others):
                    total = total + weight * torch.relu(margin - relevant.amin() + others.amax()) / len(s) / 2
    return total


@st.composite
def graded_batches(draw):
    """Scores, labels and positives on coarse grids: many exact ties, among them labels at a threshold."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    score = st.integers(-20, 20).map(lambda n: n / 20)
    label = st.sampled_from([-0.2, 0.0, 0.3, 0.5, 0.63, 0.7, 1.0])
    matrices = [[[draw(value) for _ in range(columns)] for _ in range(rows)] for value in (score, label, st.booleans())]
    return tuple(matrices)


LEVELS = [
    {},
    {"margins": (0.2, 0.05), "thresholds": (0.5,), "weights": (1.0,)},
    {"margins": (0.1, 0.01, 0.03), "thresholds": (0.63, 0.3), "weights": (0.25, 0.5)},
    {"margins": (0.1, 0.01, 0.03, 0.4), "thresholds": (2.0, 0.63, -1.0), "weights": (0.25, 0.5, 3.0)},
]
"""The last has a level that nothing reaches, and one that everything reaches."""


def test_worked_batch_gives_the_known_values(worked_scores, worked_labels):
    # Two images cost 0.16 and 0.06, one caption 0.11: (0.22 / 4 + 0.11 / 4) / 2 = 0.04125, of which a quarter.
    assert ladder_loss(worked_scores, worked_labels).item() == pytest.approx(0.1375 + 0.0103125, rel=1e-13)
    # The second level costs two images 0.05 and 0.10, one caption 0.05: a tenth of 0.025 more.
    two = ladder_loss(worked_scores, worked_labels, **TWO_LEVELS)
    assert two.item() == pytest.approx(0.1375 + 0.0103125 + 0.0025, rel=1e-13)


def test_worked_batch_with_several_positives(worked_scores, worked_labels):
    terms = LadderLoss()(worked_scores, worked_labels, worked_labels >= 0.7)
    # Of six positives a direction the images cost 0.35, 0.15 and 0.25, the captions 0.05, 0.10 and 0.30.
    assert terms["triplet"].item() == pytest.approx(0.1, rel=1e-13)
    assert terms["ladder"].item() == pytest.approx(0.0103125, rel=1e-13)


@pytest.mark.parametrize("levels", LEVELS)
@settings(max_examples=40, deadline=None)
@given(case=graded_batches())
def test_equals_the_definition_for_any_positives(levels, case):
    scores, labels, positives = case
    tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    arguments = tensor, torch.tensor(labels, dtype=torch.float64), torch.tensor(positives)
    terms = LadderLoss(**levels)(*arguments)
    expected = definition(scores, labels, positives, **levels)
    assert [terms["triplet"].item(), terms["ladder"].item()] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    loss = ladder_loss(*arguments, **levels)
    loss.backward()
    assert loss.item() == pytest.approx(sum(expected), rel=1e-12, abs=1e-12)
    assert torch.isfinite(tensor.grad).all()


@settings(max_examples=30, deadline=None)
@given(case=graded_batches(), levels=st.sampled_from(LEVELS[2:]))
def test_gradient_is_that_of_the_formula_whatever_is_tied(case, levels):
    scores, labels, positives = (torch.tensor(matrix) for matrix in case)
    scores, labels = scores.double().requires_grad_(), labels.double()
    found = LadderLoss(**levels)(scores, labels, positives)["ladder"]
    # Margins off the grid of the scores: no hinge is at its kink.
    (gradient,) = torch.autograd.grad(found, scores)
    (expected,) = torch.autograd.grad(naive_levels(scores, labels, **levels), scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("several", [False, True])
def test_gradient_is_that_of_finite_differences(several):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(6, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.rand(6, 6, generator=generator)
    labels[0], labels[1] = 1.0, 0.0
    positives = torch.rand(6, 6, generator=generator) < 0.4 if several else None
    assert torch.autograd.gradcheck(lambda s: ladder_loss(s, labels, positives, **TWO_LEVELS), (scores,))


def test_equally_hard_candidates_share_the_gradient():
    scores = torch.tensor([[0.1, 0.1, 0.4, 0.4, 0.4, 0.9]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, 0.8, 0.1, 0.2, 0.0, 1.0]])
    LadderLoss(weights=(1.0,))(scores, labels, torch.ones(1, 6, dtype=torch.bool))["ladder"].backward()
    third = 0.5 / 3
    assert scores.grad[0].tolist() == pytest.approx([-0.25, -0.25, third, third, third, 0.0])


def test_a_query_with_one_side_only_costs_nothing_but_counts():
    scores = torch.tensor([[0.2, 0.5], [0.7, 0.1], [0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, 0.1], [0.9, 0.8], [0.1, 0.2]])
    positives = torch.zeros(3, 2, dtype=torch.bool)
    loss = ladder_loss(scores, labels, positives, weights=(1.0,))
    loss.backward()
    # Images: .31, and two that have one side. Captions: min(.2, .7) against .3; .1 against max(.5, .4).
    assert loss.item() == pytest.approx((0.31 / 3 + (0.11 + 0.41) / 2) / 2, rel=1e-13)
    expected = [[-1 / 6 - 1 / 4, 1 / 6 + 1 / 4], [0.0, -1 / 4], [1 / 4, 0.0]]
    torch.testing.assert_close(scores.grad, torch.tensor(expected, dtype=torch.float64))


def test_without_positives_or_levels_that_split_loss_and_gradient_are_zero():
    for labels in (torch.zeros(3, 4), torch.ones(3, 4)):
        scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        loss = ladder_loss(scores, labels, torch.zeros(3, 4, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0.0
        assert torch.equal(scores.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_margin_as_large_as_the_scores_does_not_stand_in_for_a_missing_side(label):
    scores = torch.full((2, 2), 3e38 if label == 0 else -3e38, requires_grad=True)
    ladder = LadderLoss(margins=(0.2, 1e38))(scores, torch.full((2, 2), label))["ladder"]
    ladder.backward()
    assert ladder.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(2, 2))


@pytest.mark.parametrize("mining", ["sum", "hardest", "selective", "soft"])
def test_the_triplet_part_is_the_triplet_loss(mining):
    generator = torch.Generator().manual_seed(3)
    scores, labels = torch.randn(5, 5, generator=generator), torch.rand(5, 5, generator=generator)
    terms = LadderLoss(mining=mining, margins=(0.4, 0.1))(scores, labels)
    assert torch.equal(terms["triplet"], triplet_loss(scores, mining=mining, margin=0.4))
    assert torch.equal(terms["ladder"], LadderLoss(margins=(0.7, 0.1))(scores, labels)["ladder"])


def test_the_levels_do_not_read_the_positives():
    generator = torch.Generator().manual_seed(4)
    scores, labels = torch.randn(5, 6, generator=generator), torch.rand(5, 6, generator=generator)
    of_masks = [
        LadderLoss()(scores, labels, torch.rand(5, 6, generator=generator) < part)["ladder"] for part in (0, 0.5, 1)
    ]
    assert of_masks[0] == of_masks[1] == of_masks[2] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_label_equal_to_the_threshold_in_its_own_precision_is_relevant(dtype):
    labels = torch.tensor([[0.63, 0.0]], dtype=dtype)
    loss = LadderLoss(weights=(1.0,))(torch.tensor([[0.0, 0.5]]), labels, torch.ones(1, 2, dtype=torch.bool))
    assert loss["ladder"].item() == pytest.approx(0.51 / 2)


def test_no_gradient_reaches_the_labels():
    scores, labels = torch.zeros(3, 3, requires_grad=True), torch.rand(3, 3, requires_grad=True)
    ladder_loss(scores, labels).backward()
    assert labels.grad is None
    assert scores.grad is not None


def test_shares_of_two_workers_add_up_to_the_whole_batch():
    generator = torch.Generator().manual_seed(5)
    scores, labels = torch.randn(2, 6, 6, dtype=torch.float64, generator=generator)
    eye = torch.eye(6, dtype=torch.bool)
    parts = [
        LadderLoss(**TWO_LEVELS)(
            scores[mine],
            labels[mine],
            eye[mine],
            t2i_scores=scores.T[mine],
            t2i_labels=labels.T[mine],
            t2i_positives=eye.T[mine],
            workers=Known(6.0),
        )
        for mine in (slice(0, 2), slice(2, 6))
    ]
    whole = LadderLoss(**TWO_LEVELS)(scores, labels)
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4, 1e30])
def test_any_magnitude_keeps_value_and_gradient(dtype, size):
    generator = torch.Generator().manual_seed(6)
    largest = min(size, 6e4) if dtype is torch.float16 else size
    scores = ((torch.rand(6, 6, generator=generator) * 2 - 1) * largest).to(dtype).requires_grad_()
    labels = torch.rand(6, 6, generator=generator).to(dtype)
    loss = ladder_loss(scores, labels, **TWO_LEVELS)
    loss.backward()
    thresholds = [torch.tensor(t, dtype=dtype).item() for t in TWO_LEVELS["thresholds"]]
    expected = definition(
        scores.tolist(), labels.tolist(), torch.eye(6).bool().tolist(), **TWO_LEVELS | {"thresholds": thresholds}
    )
    assert loss.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(sum(expected), rel=1e-5)
    assert scores.grad.dtype is dtype
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() > 0


def test_what_no_float_can_hold_is_infinite_and_never_nan():
    scores = torch.full((3, 3), 3e38).fill_diagonal_(-3e38).requires_grad_()
    loss = ladder_loss(scores, torch.eye(3))
    loss.backward()
    assert loss.item() == math.inf
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad.diagonal() < 0).all()


def test_module_returns_the_function_as_two_named_terms(worked_scores, worked_labels):
    module = LadderLoss(**TWO_LEVELS, mining="sum")
    terms = module(worked_scores, worked_labels)
    assert list(terms) == ["triplet", "ladder"]
    assert torch.equal(
        terms["triplet"] + terms["ladder"], ladder_loss(worked_scores, worked_labels, **TWO_LEVELS, mining="sum")
    )
    assert not list(module.parameters())
    assert repr(module) == (
        "LadderLoss(margins=(0.2, 0.01, 0.2), thresholds=(0.63, 0.3), weights=(0.25, 0.1), mining='sum')"
    )
    defaults = LadderLoss()
    assert (defaults.margins, defaults.thresholds, defaults.weights) == ((0.2, 0.01), (0.63,), (0.25,))
    assert defaults.mining == "hardest"


NUMBERS = "expected at least one threshold, as many weights, and one margin more"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": (0.63, 0.3)}, f"ladder: 2 margins, 2 thresholds, 1 weights, {NUMBERS}"),
        ({"weights": (0.25, 0.1)}, f"ladder: 2 margins, 1 thresholds, 2 weights, {NUMBERS}"),
        ({"margins": (0.2,)}, f"ladder: 1 margins, 1 thresholds, 1 weights, {NUMBERS}"),
        (
            {"margins": (0.2,), "thresholds": (), "weights": ()},
            f"ladder: 1 margins, 0 thresholds, 0 weights, {NUMBERS}",
        ),
        (TWO_LEVELS | {"thresholds": (0.3, 0.63)}, r"thresholds: \(0.3, 0.63\), expected each to be below the one"),
        (TWO_LEVELS | {"thresholds": (0.3, 0.3)}, r"thresholds: \(0.3, 0.3\), expected each to be below the one"),
    ],
)
def test_levels_that_do_not_go_together_are_refused_at_once(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ladder_loss(torch.zeros(3, 3), torch.zeros(3, 3), **arguments)
    with pytest.raises(ConfigError, match=message):
        LadderLoss(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mining": "hard"}, ConfigError, "mining: 'hard', expected one of sum, hardest"),
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
        ladder_loss(**({"scores": torch.zeros(3, 3), "labels": torch.zeros(3, 3)} | arguments))


def test_a_threshold_beyond_the_range_of_the_labels_has_everybody_on_one_side():
    terms = LadderLoss(thresholds=(-1e300,))(torch.rand(3, 3), torch.rand(3, 3, dtype=torch.float16))
    assert terms["ladder"] == 0
