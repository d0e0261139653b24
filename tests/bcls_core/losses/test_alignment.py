"""CSA and USA against an oracle of their own: plain Python floats, a pair at a time."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.func import functional_call

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses import (
    CrossModalAlignmentLoss,
    InfoNCELoss,
    UniModalAlignmentLoss,
    cross_modal_alignment_loss,
    info_nce_loss,
)
from bcls_core.workers import Workers

MODES = ("each", "add", "dot")
BOTH = ("image-image", "caption-caption")


def softmax(row: list[float], tau: float) -> list[float]:
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


def divergence(target: list[list[float]], scores: list[list[float]], student_tau: float, teacher_tau: float) -> float:
    total = 0.0
    for wanted, found in zip(target, scores, strict=True):
        for p, q in zip(softmax(wanted, teacher_tau), softmax(found, student_tau), strict=True):
            total += p * math.log(p / q)
    return total / len(scores)


def combined(images: Tensor, captions: Tensor, mode: str) -> tuple[list[list[float]], list[list[float]]]:
    if mode == "each":
        return images.tolist(), captions.tolist()
    joint = [
        [(a + b) / 2 if mode == "add" else math.sqrt(max(a, 0.0) * max(b, 0.0)) for a, b in zip(*rows, strict=True)]
        for rows in zip(images.tolist(), captions.tolist(), strict=True)
    ]
    return joint, joint


def csa(scores: Tensor, images: Tensor, captions: Tensor, mode: str, tau: float, teacher_tau: float) -> float:
    i2t, t2i = combined(images, captions, mode)
    one = divergence(i2t, scores.tolist(), tau, teacher_tau)
    return 0.5 * (one + divergence(t2i, scores.T.tolist(), tau, teacher_tau))


def batch(seed: int, pairs: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, and two teachers' cosines, some below zero."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(pairs, pairs, dtype=torch.float64, generator=generator) * 2 - 1
    teachers = []
    for _ in range(2):
        rows = torch.randn(pairs, 4, dtype=torch.float64, generator=generator)
        rows = rows / rows.norm(dim=1, keepdim=True)
        teachers.append(rows @ rows.T)
    return scores, teachers[0], teachers[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("tau", "teacher_tau"), [(0.45, 1.0), (0.1, 0.3)])
def test_csa_is_the_mean_of_two_divergences(mode: Any, tau: float, teacher_tau: float) -> None:
    scores, images, captions = batch(1)
    found = cross_modal_alignment_loss(scores, images, captions, student_tau=tau, mode=mode, teacher_tau=teacher_tau)
    assert found.item() == pytest.approx(csa(scores, images, captions, mode, tau, teacher_tau), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_finite_differences(mode: Any) -> None:
    scores, images, captions = batch(2, 5)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return cross_modal_alignment_loss(s, images, captions, student_tau=t, mode=mode)

    assert torch.autograd.gradcheck(loss, (scores.requires_grad_(), tau))


def test_a_direction_follows_its_own_teacher() -> None:
    """A transposed teacher or a swapped one is another loss, though teachers are symmetric: their softmax is not."""
    scores, images, captions = batch(3)
    right = csa(scores, images, captions, "each", 0.45, 1.0)
    assert csa(scores, captions, images, "each", 0.45, 1.0) != pytest.approx(right, rel=1e-3)
    assert CrossModalAlignmentLoss().double()(scores, images, captions)["image-caption"].item() == pytest.approx(
        right, rel=1e-6
    )  # the learned temperature starts from a float32


def test_usa_is_the_mean_of_its_sides() -> None:
    scores, images, captions = batch(4)
    module = UniModalAlignmentLoss(learned=False, student_tau=0.3, teacher_tau=0.7)
    found = module({"image-image": (scores, images), "caption-caption": (scores.T, captions)})
    assert list(found) == list(BOTH)
    assert found["image-image"].item() == pytest.approx(
        divergence(images.tolist(), scores.tolist(), 0.3, 0.7) / 2, rel=1e-12
    )
    assert found["caption-caption"].item() == pytest.approx(
        divergence(captions.tolist(), scores.T.tolist(), 0.3, 0.7) / 2, rel=1e-12
    )


@pytest.mark.parametrize("side", BOTH)
def test_one_side_alone_is_not_halved(side: Any) -> None:
    scores, images, _ = batch(5)
    found = UniModalAlignmentLoss([side], learned=False)({side: (scores, images)})
    assert list(found) == [side]
    assert found[side].item() == pytest.approx(divergence(images.tolist(), scores.tolist(), 0.45, 1.0), rel=1e-12)


def test_sides_learn_temperatures_of_their_own_and_teachers_none() -> None:
    _, images, captions = batch(6)
    module = UniModalAlignmentLoss(student_tau=0.9)
    assert len(list(module.parameters())) == 2
    optimiser = torch.optim.Adam(module.parameters(), lr=0.03)
    teachers = [images.clone().requires_grad_(), captions.clone().requires_grad_()]
    for _ in range(400):
        optimiser.zero_grad()
        # The first side's scores say more than its teacher, the second's less: one temperature rises, the other falls.
        terms = module({"image-image": (images * 0.95, teachers[0]), "caption-caption": (captions * 0.2, teachers[1])})
        sum(terms.values()).backward()
        optimiser.step()
    high, low = (module.get_submodule(side).student_tau().item() for side in BOTH)
    assert high == pytest.approx(0.95, rel=1e-3)
    assert low == pytest.approx(0.2, rel=1e-3)
    assert [teacher.grad for teacher in teachers] == [None, None]


def test_temperatures_stay_within_their_bounds() -> None:
    _, images, captions = batch(7)
    losses = CrossModalAlignmentLoss(), UniModalAlignmentLoss()
    arguments: list[tuple[Any, ...]] = [
        (images * 1e-3, images, images),
        ({"image-image": (images * 1e-3, images), "caption-caption": (captions * 1e3, captions)},),
    ]
    for loss, given in zip(losses, arguments, strict=True):
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.05)
        for _ in range(200):
            optimiser.zero_grad()
            sum(loss(*given).values()).backward()
            optimiser.step()
    assert losses[0].student_tau().item() == pytest.approx(0.10)
    assert losses[1].get_submodule("image-image").student_tau().item() == pytest.approx(0.10)
    assert losses[1].get_submodule("caption-caption").student_tau().item() == pytest.approx(1.00)


def test_gradient_of_a_learned_parameter_is_that_of_finite_differences() -> None:
    scores, images, captions = batch(8, 5)
    module = CrossModalAlignmentLoss("dot").double()

    def loss(log_tau: Tensor) -> Tensor:
        found: Tensor = functional_call(module, {"student_tau.log_tau": log_tau}, (scores, images, captions))[
            "image-caption"
        ]
        return found

    assert isinstance(module.student_tau, torch.nn.Module)
    assert torch.autograd.gradcheck(loss, (module.student_tau.log_tau,))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_teachers_of_any_scale_give_numbers(mode: Any, size: float) -> None:
    scores, images, captions = (part.float() for part in batch(9))
    scores.requires_grad_()
    loss = cross_modal_alignment_loss(scores, images * size, captions * size, student_tau=0.45, mode=mode)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
def test_half_precisions_are_computed_in_float32(dtype: torch.dtype, mode: Any) -> None:
    scores, images, captions = (part.to(dtype) for part in batch(10))
    found = cross_modal_alignment_loss(scores, images, captions, student_tau=0.45, mode=mode)
    wide = cross_modal_alignment_loss(scores.double(), images.double(), captions.double(), student_tau=0.45, mode=mode)
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(wide.item(), rel=1e-5)


def test_a_batch_of_one_costs_nothing() -> None:
    score = torch.rand(1, 1, requires_grad=True)
    loss = cross_modal_alignment_loss(score, torch.ones(1, 1), torch.ones(1, 1), student_tau=0.45)
    loss.backward()
    assert loss.item() == 0.0
    assert score.grad is not None
    assert score.grad.item() == 0.0


def test_the_release_is_the_textbook_sum_over_its_batch() -> None:
    """Its InfoNCE is a mean over rows and columns, so weights beside a textbook InfoNCE are as many times larger."""
    scores, images, captions = batch(11, 16)
    alpha, beta, tau, pairs = 0.1, 0.5, 0.05, 16
    sides: dict[Any, tuple[Tensor, Tensor]] = {"image-image": (scores, images), "caption-caption": (scores, captions)}
    cross = cross_modal_alignment_loss(scores, images, captions, student_tau=0.45)
    within = sum(UniModalAlignmentLoss(learned=False)(sides).values())
    log_rows, log_columns = ((part / tau).log_softmax(1) for part in (scores, scores.T))
    target = torch.eye(pairs, dtype=torch.float64)
    released = -0.5 * ((target * log_rows).mean() + (target * log_columns).mean()) + alpha * cross + beta * within
    textbook = info_nce_loss(scores, tau=tau) + alpha * pairs * cross + beta * pairs * within
    assert textbook.item() == pytest.approx(pairs * released.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"mode": "sum"}, "mode: 'sum', expected one of each, add, dot"),
        ({"student_tau": 0.0}, "student_tau: 0.0"),
        ({"teacher_tau": -1.0}, "teacher_tau: -1.0"),
    ],
)
def test_unusable_settings_are_refused(broken: Any, message: str) -> None:
    scores, images, captions = batch(12)
    with pytest.raises(ConfigError, match=message):
        cross_modal_alignment_loss(scores, images, captions, **({"student_tau": 0.45} | broken))


@pytest.mark.parametrize("between", [[], ["image-image", "image-image"], ["image-caption"]])
def test_unusable_sides_are_refused(between: Any) -> None:
    with pytest.raises(ConfigError, match="between"):
        UniModalAlignmentLoss(between)


def test_what_does_not_fit_is_refused() -> None:
    scores, images, captions = batch(13)
    with pytest.raises(ShapeError, match="caption_teacher: shape \\(7, 6\\), but scores has \\(7, 7\\)"):
        cross_modal_alignment_loss(scores, images, captions[:, :6], student_tau=0.45)
    with pytest.raises(ShapeError, match="pass t2i_scores"):
        cross_modal_alignment_loss(scores[:3], images[:3], captions[:3], student_tau=0.45)
    with pytest.raises(ShapeError, match="caption-caption: missing, only image-image was given"):
        UniModalAlignmentLoss()({"image-image": (scores, images)})
    broken = images.clone()
    broken[0, 1] = math.nan
    with pytest.raises(ShapeError, match="image_teacher: nan at row 0, column 1"):
        cross_modal_alignment_loss(scores, broken, captions, student_tau=0.45, mode="dot")


def share(rank: int, size: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": str(size)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    scores, images, captions = batch(14, 6)
    workers, sizes = Workers(rank, size), (4, 2)
    mine = workers.rows(sizes)
    found: dict[str, Tensor] = {}
    for mode in MODES:
        own = scores.clone().requires_grad_()
        module = CrossModalAlignmentLoss(mode).double()
        (value,) = module(own[mine], images[mine], captions[mine], t2i_scores=own.T[mine], workers=workers).values()
        value.backward()
        found |= {f"{mode}/value": workers.sum(value.detach()), f"{mode}/gradient": workers.sum(own.grad)}
        found[f"{mode}/tau"] = workers.sum(module.student_tau.log_tau.grad)
    module = UniModalAlignmentLoss().double()
    terms = module(
        {"image-image": (scores[mine], images[mine]), "caption-caption": (scores[mine], captions[mine])},
        workers=workers,
    )
    found |= {side: workers.sum(value.detach()) for side, value in terms.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_shares_of_workers_add_up(tmp_path: Path) -> None:
    mp.spawn(share, (2, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    scores, images, captions = batch(14, 6)
    for mode in MODES:
        own = scores.clone().requires_grad_()
        module = CrossModalAlignmentLoss(mode).double()
        (value,) = module(own, images, captions).values()
        value.backward()
        for part in parts:
            torch.testing.assert_close(part[f"{mode}/value"], value.detach())
            torch.testing.assert_close(part[f"{mode}/gradient"], own.grad)
            torch.testing.assert_close(part[f"{mode}/tau"], module.student_tau.log_tau.grad)
    terms = UniModalAlignmentLoss().double()({"image-image": (scores, images), "caption-caption": (scores, captions)})
    for side, value in terms.items():
        torch.testing.assert_close(parts[0][side], value.detach())


def test_all_of_cusa_trains_scores_towards_teachers() -> None:
    """The whole objective on free scores: what the teachers find alike ends up closer than what they do not."""
    _, images, captions = batch(15, 12)
    scores = torch.zeros(12, 12, dtype=torch.float64, requires_grad=True)
    losses = InfoNCELoss().double(), CrossModalAlignmentLoss().double()
    optimiser = torch.optim.Adam([scores, *(p for loss in losses for p in loss.parameters())], lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        total = losses[0](scores)["info-nce"] + 12.8 * losses[1](scores, images, captions)["image-caption"]
        total.backward()
        optimiser.step()
    others = ~torch.eye(12, dtype=torch.bool)
    agreement = torch.corrcoef(torch.stack([scores.detach()[others], (images + captions)[others]]))[0, 1]
    assert agreement > 0.9
    assert (scores.detach().argmax(1) == torch.arange(12)).all()
