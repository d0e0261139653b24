from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses import TripletLoss, triplet_loss

FORMS: list[dict[str, Any]] = [
    {"mining": "sum"},
    {"mining": "hardest"},
    {"mining": "selective"},
    *({"mining": "soft", "variant": variant} for variant in ("smooth", "logsumexp", "softmax")),
]


def form_name(form: dict[str, Any]) -> str:
    return "-".join(form.values())


def anchor_cost(own, negatives, mining, variant="smooth", margin=0.2, tau=0.02, eps=0.01):
    """One anchor, from the formulas, in plain Python floats."""
    if not negatives:
        return 0.0
    hinges = [max(0.0, margin - own + s) for s in negatives]
    if mining == "sum":
        return sum(hinges)
    if mining == "hardest":
        return max(hinges)
    if mining == "selective":
        return sum(hinges) / len(hinges) if abs(own - max(negatives)) < eps else max(hinges)
    top = max(negatives)
    weights = [math.exp((s - top) / tau) for s in negatives]
    if variant == "softmax":
        return sum(w * h for w, h in zip(weights, hinges, strict=True)) / sum(weights)
    pooled = top + tau * math.log(sum(weights))
    if variant == "logsumexp":
        return max(0.0, margin - own + pooled)
    x = (margin - own + pooled) / tau
    return tau * (max(x, 0.0) + math.log1p(math.exp(-abs(x))))


def definition(scores, positives, reduction="mean", **form):
    """Nested loops over anchors, both directions."""
    means, total = [], 0.0
    for s, p in ((scores, positives), (list(zip(*scores, strict=True)), list(zip(*positives, strict=True)))):
        costs = [
            anchor_cost(s[i][j], [s[i][k] for k in range(len(s[i])) if not p[i][k]], **form)
            for i, j in product(range(len(s)), range(len(s[0])))
            if p[i][j]
        ]
        means.append(sum(costs) / len(costs) if costs else 0.0)
        total += sum(costs)
    return total if reduction == "sum" else sum(means) / 2


@st.composite
def masked_batches(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    score = st.integers(-20, 20).map(lambda n: n / 20)  # a coarse grid: many exact ties, in scores and at the margin
    matrix = [[draw(score) for _ in range(columns)] for _ in range(rows)]
    mask = [[draw(st.booleans()) for _ in range(columns)] for _ in range(rows)]
    return matrix, mask


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"reduction": "sum"}, "1.1"),
        ({}, "0.1375"),
        ({"mining": "selective", "eps": 0.01}, "0.1375"),
        ({"mining": "selective", "eps": 0.06}, "0.0770833"),
        ({"mining": "soft", "tau": 0.1, "variant": "logsumexp"}, "0.1468323"),
        ({"mining": "soft", "tau": 0.1, "variant": "smooth"}, "0.1599129"),
        ({"mining": "soft", "tau": 0.1, "variant": "softmax"}, "0.1222722"),
        ({"mining": "soft", "tau": 0.02, "variant": "logsumexp"}, "0.1375030"),
        ({"mining": "soft", "tau": 0.02, "variant": "smooth"}, "0.1375226"),
        ({"mining": "soft", "tau": 0.02, "variant": "softmax"}, "0.1374770"),
    ],
)
def test_worked_batch_gives_the_printed_values(worked_scores, form, expected):
    digits = len(expected.split(".")[1])
    assert round(triplet_loss(worked_scores, **form).item(), digits) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=form_name)
@settings(max_examples=60, deadline=None)
@given(case=masked_batches(), reduction=st.sampled_from(["mean", "sum"]), eps=st.sampled_from([0.01, 0.12]))
def test_equals_the_definition_for_any_positives(form, case, reduction, eps):
    scores, positives = case
    expected = definition(scores, positives, reduction, eps=eps, **form)
    tensor = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    loss = triplet_loss(tensor, torch.tensor(positives), reduction=reduction, eps=eps, **form)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert tensor.grad is not None
    assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_the_diagonal_is_the_default_mask(form):
    scores = torch.randn(7, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        triplet_loss(scores, **form), triplet_loss(scores, torch.eye(7, dtype=torch.bool), **form), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("variant", ["smooth", "logsumexp", "softmax"])
def test_a_common_offset_costs_few_digits(variant):
    scores = torch.randint(-64, 64, (6, 6), generator=torch.Generator().manual_seed(9)).float() / 64
    expected = triplet_loss(scores, mining="soft", variant=variant)
    found = triplet_loss(scores + 2.0**16, mining="soft", variant=variant)  # exact: 1/64 is a last digit there
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)


def test_smooth_has_half_a_slope_where_both_sides_are_equal():
    scores = torch.tensor([[0.5, 0.25]], dtype=torch.float64, requires_grad=True)
    positives = torch.tensor([[True, False]])
    loss = triplet_loss(
        scores,
        positives,
        mining="soft",
        margin=0.25,
        tau=0.1,
        t2i_scores=torch.zeros(1, 2).double(),
        t2i_positives=torch.zeros(1, 2, dtype=torch.bool),
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.1 * math.log(2) / 2)
    assert scores.grad.tolist() == [[-0.25, 0.25]]


@pytest.mark.parametrize(
    "form", [{"mining": "hardest"}, {"mining": "soft"}, {"mining": "soft", "variant": "logsumexp"}]
)
def test_many_positives_take_no_more_memory_than_scores(form, largest_tensors):
    positives = torch.rand(60, 60, generator=torch.Generator().manual_seed(4)) < 0.5
    scores = torch.randn(60, 60, generator=torch.Generator().manual_seed(5), requires_grad=True)
    assert max(largest_tensors(lambda: triplet_loss(scores, positives, **form))) <= 3600


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_gradient_is_that_of_finite_differences(form):
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    positives = torch.rand(5, 6, generator=generator) < 0.3
    positives[0], positives[1] = False, True
    assert torch.autograd.gradcheck(lambda s: triplet_loss(s, positives, tau=0.2, eps=0.5, **form), (scores,))


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_order_of_the_batch_does_not_matter(form):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(-9, 9, (8, 8), generator=generator).double() / 10  # ties share their gradient
    order = torch.randperm(8, generator=generator)
    plain, shuffled = scores.clone().requires_grad_(), scores[order][:, order].clone().requires_grad_()
    value, other = triplet_loss(plain, **form), triplet_loss(shuffled, **form)
    value.backward()
    other.backward()
    assert other.item() == pytest.approx(value.item(), abs=1e-14)
    torch.testing.assert_close(shuffled.grad, plain.grad[order][:, order])


def test_equally_hard_negatives_share_the_gradient():
    scores = torch.tensor([[0.5, 0.4, 0.4]], requires_grad=True)
    triplet_loss(scores, torch.tensor([[True, False, False]])).backward()
    assert scores.grad.tolist() == [[-0.5, 0.25, 0.25]]  # halved: no caption has another image


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_both_directions_weigh_the_same(form):
    generator = torch.Generator().manual_seed(4)
    scores, positives = torch.randn(4, 7, generator=generator), torch.rand(4, 7, generator=generator) < 0.4
    torch.testing.assert_close(triplet_loss(scores.T, positives.T, **form), triplet_loss(scores, positives, **form))


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_rectangles_of_two_ranks_add_up_to_the_whole_batch(form):
    scores = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    eye = torch.eye(6, dtype=torch.bool)
    parts = [
        triplet_loss(
            scores[mine], eye[mine], t2i_scores=scores.T[mine], t2i_positives=eye.T[mine], reduction="sum", **form
        )
        for mine in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), triplet_loss(scores, reduction="sum", **form))


@pytest.mark.parametrize("variant", ["smooth", "logsumexp", "softmax"])
def test_soft_negatives_tend_to_the_hardest(variant):
    scores = torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    hardest = triplet_loss(scores, margin=0.3).item()
    distances = [
        abs(triplet_loss(scores, mining="soft", variant=variant, margin=0.3, tau=tau).item() - hardest)
        for tau in (1.0, 0.1, 1e-2, 1e-4)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_large_scores_neither_overflow_nor_lose_the_gradient(form, dtype):
    scores = (torch.randn(6, 6, generator=torch.Generator().manual_seed(7)) * 100).to(dtype).requires_grad_()
    loss = triplet_loss(scores, tau=0.02, **form)
    loss.backward()
    expected = definition(scores.double().tolist(), torch.eye(6, dtype=torch.bool).tolist(), **form)
    assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert scores.grad.dtype is dtype
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_without_negatives_loss_and_gradient_are_zero(form, shape):
    scores = torch.ones(shape, requires_grad=True)
    loss = triplet_loss(scores, torch.ones(shape, dtype=torch.bool), **form)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(scores.grad, torch.zeros(shape))


def test_a_batch_of_one_or_without_positives_is_zero():
    for scores, positives in ((torch.ones(1, 1), None), (torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))):
        scores.requires_grad_()
        loss = triplet_loss(scores, positives, mining="soft")
        loss.backward()
        assert loss.item() == 0.0
        assert scores.grad.abs().sum() == 0.0


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_memory_stays_quadratic_on_the_diagonal(form, largest_tensors):
    scores = torch.randn(40, 40, generator=torch.Generator().manual_seed(8), requires_grad=True)
    assert max(largest_tensors(lambda: triplet_loss(scores, **form))) <= 40 * 40


def test_module_returns_the_function_as_a_named_term(worked_scores):
    module = TripletLoss("soft", tau=0.1, variant="softmax", margin=0.3, eps=0.2, reduction="sum")
    terms = module(worked_scores)
    expected = triplet_loss(worked_scores, mining="soft", tau=0.1, variant="softmax", margin=0.3, reduction="sum")
    assert list(terms) == ["triplet"]
    assert torch.equal(terms["triplet"], expected)
    assert "variant='softmax'" in repr(module)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_named(poison):
    scores = torch.zeros(4, 4)
    scores[2, 3] = poison
    with pytest.raises(ShapeError, match=r"scores: .*(nan|inf) at row 2, column 3; 1 of the 16"):
        triplet_loss(scores)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": torch.zeros(3)}, ShapeError, r"scores: shape \(3,\)"),
        ({"scores": torch.zeros(0, 0)}, ShapeError, "at least one row"),
        ({"scores": torch.zeros(2, 2, dtype=torch.int64)}, ShapeError, "floating"),
        ({"scores": torch.zeros(2, 3)}, ShapeError, r"scores: shape \(2, 3\) has no diagonal.*Pass positives"),
        ({"positives": torch.zeros(3, 2, dtype=torch.bool), "scores": torch.zeros(2, 3)}, ShapeError, "transposed"),
        ({"positives": torch.zeros(3, 3)}, ShapeError, r"positives: torch.float32.*\.bool\(\)"),
        ({"t2i_scores": torch.zeros(3, 4)}, ShapeError, "Pass t2i_positives"),
        ({"positives": torch.eye(3).bool(), "t2i_scores": torch.zeros(3, 3)}, ShapeError, "t2i_positives: missing"),
        ({"mining": "hard"}, ConfigError, "mining: 'hard', expected one of sum, hardest"),
        ({"variant": "max"}, ConfigError, "variant: 'max'"),
        ({"reduction": "none"}, ConfigError, "reduction: 'none'"),
        ({"tau": 0.0}, ConfigError, "tau: 0.0, expected a number above 0"),
        ({"tau": 1e-50}, ConfigError, "tau: 1e-50, expected a number above 0, between 1e-38 and 9e"),
        ({"tau": math.inf}, ConfigError, "tau: inf"),
        ({"margin": math.nan}, ConfigError, "margin: nan, expected a finite number"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        triplet_loss(**({"scores": torch.zeros(3, 3)} | arguments))
