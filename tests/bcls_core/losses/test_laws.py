"""What holds for every loss: symmetries, precisions, edge cases, compiled graphs, and workers that act as one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bcls_core.errors import ShapeError
from bcls_core.losses import (
    CoSENTLoss,
    InfoNCELoss,
    KendallLoss,
    LadderLoss,
    LanguageGuidedMarginLoss,
    SigLIPLoss,
    SmoothNDCGLoss,
    SoftLabelLoss,
    SoftSpearmanLoss,
    TripletLoss,
    triplet_loss,
)
from bcls_core.workers import Workers

BINARY = "scores, positives"
GRADED = "scores, labels, positives"
ORDER = "scores, labels"

LOSSES: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "triplet sum": (BINARY, lambda: TripletLoss("sum")),
    "triplet hardest": (BINARY, lambda: TripletLoss("hardest")),
    "triplet selective": (BINARY, lambda: TripletLoss("selective", eps=0.1)),
    "triplet smooth": (BINARY, lambda: TripletLoss("soft", tau=0.1)),
    "triplet logsumexp": (BINARY, lambda: TripletLoss("soft", tau=0.1, variant="logsumexp")),
    "triplet softmax": (BINARY, lambda: TripletLoss("soft", tau=0.1, variant="softmax")),
    "info-nce": (BINARY, InfoNCELoss),
    "siglip": (BINARY, SigLIPLoss),
    "kendall": (GRADED, lambda: KendallLoss(gap=0.1)),
    "kendall percentile": (GRADED, lambda: KendallLoss(gap="p40", normalise="query")),
    "kendall tanh": (GRADED, lambda: KendallLoss(gap=0.1, surrogate="tanh")),
    "kendall dead zone": (GRADED, lambda: KendallLoss(gap=0.1, sampling="dead-zone", window=2)),
    "kendall dead zone hard": (GRADED, lambda: KendallLoss(gap=0.1, sampling="dead-zone", window=2, hard=True)),
    "kendall local": (GRADED, lambda: KendallLoss(gap=0.1, sampling="local", window=4, normalise="query")),
    "kendall local hard": (GRADED, lambda: KendallLoss(gap=0.1, sampling="local", window=4, hard=True)),
    "language-guided margin": (GRADED, LanguageGuidedMarginLoss),
    "ladder": (GRADED, lambda: LadderLoss(margins=(0.2, 0.1), thresholds=(0.5,))),
    "s-ndcg": (ORDER, lambda: SmoothNDCGLoss(tau=0.1)),
    "soft-spearman": (ORDER, lambda: SoftSpearmanLoss(tau=0.1)),
    "cosent": (ORDER, CoSENTLoss),
}
GRADED_LOSSES = [name for name, (reads, _) in LOSSES.items() if reads is not BINARY]
PAIRED_ANCHORS = ("triplet sum", "triplet selective", "triplet softmax")
DIFFERENTIABLE_ONCE = [name for name in GRADED_LOSSES if name not in ("language-guided margin", "ladder")]
every_loss = pytest.mark.parametrize("name", LOSSES)


def compute(
    name: str,
    scores: Tensor,
    labels: Tensor,
    positives: Tensor | None = None,
    module: nn.Module | None = None,
    **transposed: Any,
) -> Tensor:
    """The loss as its module gives it, from what it reads."""
    reads, make = LOSSES[name]
    given = {"scores": scores, "labels": labels, "positives": positives}
    if reads is BINARY:
        transposed.pop("t2i_labels", None)
    if reads is ORDER:
        transposed.pop("t2i_positives", None)
    terms = (module or make().to(scores.device))(**{part: given[part] for part in reads.split(", ")}, **transposed)
    return torch.stack(list(terms.values())).sum()


def batch(size: int = 9, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Scores and labels without ties, so that hardest candidates are the same ones in any order of the batch."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(size, size, generator=generator, dtype=torch.float64).tanh()
    labels = torch.rand(size, size, generator=generator, dtype=torch.float64).fill_diagonal_(1.0)
    return scores.to(dtype), labels.to(dtype)


def two_positives(size: int) -> Tensor:
    """The diagonal, and one column more for every second row."""
    positives = torch.eye(size, dtype=torch.bool)
    positives[torch.arange(0, size, 2), (torch.arange(0, size, 2) + 1) % size] = True
    return positives


@every_loss
@pytest.mark.parametrize("several", [False, True])
def test_the_order_of_the_batch_does_not_matter(name: str, several: bool) -> None:
    scores, labels = batch()
    positives = two_positives(9) if several else None
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    plain, shuffled = scores.clone().requires_grad_(), scores[order][:, order].clone().requires_grad_()
    value = compute(name, plain, labels, positives)
    moved = None if positives is None else positives[order][:, order]
    other = compute(name, shuffled, labels[order][:, order], moved)
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)
    value.backward()
    other.backward()
    torch.testing.assert_close(shuffled.grad, plain.grad[order][:, order], rtol=1e-11, atol=1e-12)
    assert plain.grad.abs().sum() > 0


@every_loss
@pytest.mark.parametrize("several", [False, True])
def test_images_and_captions_play_the_same_part(name: str, several: bool) -> None:
    if name in ("kendall percentile", "language-guided margin"):
        pytest.skip("percentiles are taken over image rows")
    scores, labels = batch()
    positives = two_positives(9) if several else None
    flipped = compute(name, scores.T, labels.T, None if positives is None else positives.T)
    torch.testing.assert_close(flipped, compute(name, scores, labels, positives), rtol=1e-12, atol=1e-12)


BINARY_LOSSES = [name for name, (reads, _) in LOSSES.items() if reads is BINARY]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", BINARY_LOSSES)
def test_what_is_ignored_is_neither_positive_nor_negative(name: str, several: bool) -> None:
    """As if its score were so low that no loss sees it; a positive stays one."""
    scores, labels = batch()
    positives = two_positives(9) if several else None
    matches = torch.eye(9, dtype=torch.bool) if positives is None else positives
    ignored = torch.rand(9, 9, generator=torch.Generator().manual_seed(3)) < 0.4
    ignored[4] = True  # a query without any negative
    plain = scores.clone().requires_grad_()
    value = compute(name, plain, labels, positives, ignored=ignored)
    value.backward()
    left_out = ignored & ~matches
    assert left_out.sum() > 10
    assert (ignored & matches).any()
    assert plain.grad[left_out].abs().max() == 0
    assert plain.grad[matches].abs().sum() > 0
    if name != "triplet selective":  # its mean is over all negatives, however low
        lowered = compute(name, scores.masked_fill(left_out, -1e4), labels, positives)
        torch.testing.assert_close(value.detach(), lowered, rtol=1e-12, atol=1e-12)
    swapped = scores.clone()
    swapped[left_out] += 0.7
    torch.testing.assert_close(compute(name, swapped, labels, positives, ignored=ignored), value.detach())
    nothing = compute(name, scores, labels, positives, ignored=torch.zeros(9, 9, dtype=torch.bool))
    torch.testing.assert_close(nothing, compute(name, scores, labels, positives), rtol=1e-13, atol=1e-13)


def test_the_mean_of_a_selective_triplet_is_over_what_is_not_ignored() -> None:
    scores = torch.tensor([[0.50, 0.50, 0.40, 0.90], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]], dtype=torch.float64)
    ignored = torch.zeros(4, 4, dtype=torch.bool)
    ignored[0, 3] = True
    found = triplet_loss(scores, mining="selective", eps=0.01, ignored=ignored)
    image = (0.2 + 0.1) / 2  # of captions 1 and 2; the other images have no hinge
    assert found.item() == pytest.approx(0.5 * image / 4)


@pytest.mark.parametrize("name", BINARY_LOSSES)
def test_what_is_ignored_may_be_given_apart_and_must_fit(name: str) -> None:
    scores, labels = batch()
    positives = two_positives(9)
    ignored = torch.rand(9, 9, generator=torch.Generator().manual_seed(4)) < 0.4
    apart = {"t2i_scores": scores.T.clone(), "t2i_positives": positives.T.clone()}
    found = compute(name, scores, labels, positives, ignored=ignored, t2i_ignored=ignored.T.clone(), **apart)
    torch.testing.assert_close(found, compute(name, scores, labels, positives, ignored=ignored))
    with pytest.raises(ShapeError, match="ignored: missing, though t2i_ignored is given"):
        compute(name, scores, labels, positives, t2i_ignored=ignored)
    with pytest.raises(ShapeError, match="t2i_ignored: missing"):
        compute(name, scores, labels, positives, ignored=ignored, **apart)
    with pytest.raises(ShapeError, match=r"ignored: shape \(9, 8\)"):
        compute(name, scores, labels, positives, ignored=ignored[:, :8])
    with pytest.raises(ShapeError, match=r"ignored: torch.float32, expected torch.bool"):
        compute(name, scores, labels, positives, ignored=ignored.float())


@every_loss
def test_a_transposed_direction_may_be_given_apart(name: str) -> None:
    scores, labels = batch()
    positives = two_positives(9)
    apart = compute(
        name,
        scores,
        labels,
        positives,
        t2i_scores=scores.T.clone(),
        t2i_labels=labels.T.clone(),
        t2i_positives=positives.T.clone(),
    )
    torch.testing.assert_close(apart, compute(name, scores, labels, positives), rtol=1e-13, atol=1e-13)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_precision(name: str, dtype: torch.dtype) -> None:
    scores, labels = batch(dtype=dtype)
    scores.requires_grad_()
    loss = compute(name, scores, labels)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert scores.grad.dtype is dtype
    wide = scores.detach().double().requires_grad_()
    expected = compute(name, wide, labels)  # labels in their own precision: their differences decide
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    rounding = {torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 2e-2)
    torch.testing.assert_close(scores.grad.double(), wide.grad, rtol=rounding, atol=rounding)


@every_loss
@pytest.mark.parametrize("largest", [0.0, 1e-30, 1e4, 1e30])
def test_finite_scores_give_a_finite_gradient(name: str, largest: float) -> None:
    scores, labels = batch(dtype=torch.float32)
    scores = (scores * largest).requires_grad_()
    loss = compute(name, scores, labels)
    loss.backward()
    assert not torch.isnan(loss)
    assert torch.isfinite(scores.grad).all()


@every_loss
@pytest.mark.parametrize("equal", [False, True], ids=["labels", "equal labels"])
def test_scores_at_the_end_of_the_range_give_no_nan(name: str, equal: bool) -> None:
    scores, labels = batch(dtype=torch.float32)
    scores = (scores.sign() * 3.4e38).requires_grad_()
    loss = compute(name, scores, torch.ones_like(labels) if equal else labels)
    loss.backward()
    assert not torch.isnan(loss)
    assert not torch.isnan(scores.grad).any()


@pytest.mark.parametrize("name", DIFFERENTIABLE_ONCE)
def test_a_second_derivative_is_refused(name: str) -> None:
    scores, labels = batch()
    leaf = scores.clone().requires_grad_()
    loss = compute(name, leaf**2, labels) + leaf.square().sum()
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.square().sum().backward()


@every_loss
def test_a_batch_of_one(name: str) -> None:
    scores = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    loss = compute(name, scores, torch.ones(1, 1, dtype=torch.float64))
    loss.backward()
    if name == "siglip":  # the one loss that asks something of a pair by itself
        assert loss > 0
    else:
        assert loss.item() == 0.0
        assert scores.grad.item() == 0.0


@every_loss
def test_rows_without_negatives(name: str) -> None:
    scores, labels = batch(4)
    scores.requires_grad_()
    loss = compute(name, scores, labels, torch.ones(4, 4, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("name", GRADED_LOSSES)
@pytest.mark.parametrize("value", [-1.0, 0.0, 0.4, 1.0])
def test_labels_that_are_all_equal(name: str, value: float) -> None:
    scores, _ = batch()
    scores.requires_grad_()
    loss = compute(name, scores, torch.full((9, 9), value, dtype=torch.float64))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()
    if name not in ("language-guided margin", "ladder"):  # whose binary part goes on
        assert not scores.grad.any()


@every_loss
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_named_by_row_and_column(name: str, wrong: float) -> None:
    scores, labels = batch()
    scores[3, 5] = wrong
    with pytest.raises(ShapeError, match=f"scores: {wrong} at row 3, column 5"):
        compute(name, scores, labels)


@pytest.mark.parametrize("name", GRADED_LOSSES)
def test_a_label_that_is_not_finite_is_named_by_row_and_column(name: str) -> None:
    scores, labels = batch()
    labels[2, 7] = torch.nan
    with pytest.raises(ShapeError, match="labels: nan at row 2, column 7"):
        compute(name, scores, labels)


@pytest.mark.parametrize("name", GRADED_LOSSES)
def test_labels_of_another_shape_are_refused(name: str) -> None:
    scores, labels = batch()
    with pytest.raises(ShapeError, match=r"labels: shape \(9, 8\), but scores has \(9, 9\)"):
        compute(name, scores, labels[:, :8])


@every_loss
@pytest.mark.parametrize("masked", [False, True], ids=["diagonal", "mask"])
def test_one_compiled_graph_gives_the_same(name: str, masked: bool) -> None:
    if masked and name in PAIRED_ANCHORS:
        pytest.skip("its anchors are listed, and how many there are has to be waited for")
    if name in ("kendall percentile", "language-guided margin"):
        pytest.skip("a percentile of the batch is a number, which no graph can wait for")
    torch._dynamo.reset()
    scores, labels = batch(dtype=torch.float32)
    positives = torch.eye(9, dtype=torch.bool).index_put(
        (torch.tensor([0, 4]), torch.tensor([3, 5])), torch.tensor(True)
    )
    module = LOSSES[name][1]()
    results = []
    for call in (compute, torch.compile(compute, fullgraph=True, backend="aot_eager")):
        leaf = scores.clone().requires_grad_()
        loss = call(name, leaf, labels, positives if masked else None, module=module)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0])


SIZES = {2: (4, 3), 3: (3, 2, 2)}
ROWS, FEATURES, DIM = 7, 5, 4


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image, self.caption = (nn.Linear(FEATURES, DIM).double() for _ in range(2))

    def forward(self, images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        unit = nn.functional.normalize
        return unit(self.image(images), dim=-1), unit(self.caption(captions), dim=-1)


def joint_step(name: str, workers: Workers, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Loss of the joint batch, and the gradients of everything that is learned, as one of these workers has them."""
    generator = torch.Generator().manual_seed(11)
    images, captions = (torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.rand(ROWS, ROWS, generator=generator, dtype=torch.float64).fill_diagonal_(1.0)
    positives = two_positives(ROWS)
    towers = Towers()
    model = DistributedDataParallel(towers) if workers.size > 1 else towers
    module = LOSSES[name][1]().double()
    mine = workers.rows(sizes)
    my_images, my_captions = model(images[mine], captions[mine])
    all_images, all_captions = workers.gather(my_images, sizes), workers.gather(my_captions, sizes)
    share = compute(
        name,
        my_images @ all_captions.T,
        labels[mine],
        positives[mine],
        module,
        t2i_scores=my_captions @ all_images.T,
        t2i_labels=labels.T[mine],
        t2i_positives=positives.T[mine],
        workers=workers,
    )
    (share * workers.size).backward()  # data parallelism averages
    workers.average_gradients(module.parameters())
    learned = [*towers.named_parameters(), *module.named_parameters()]
    return {"loss": workers.sum(share)} | {path: parameter.grad for path, parameter in learned}


def worker(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    workers = Workers.of_process_group()
    torch.save({name: joint_step(name, workers, SIZES[size]) for name in LOSSES}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_workers_give_the_loss_and_the_gradients_of_the_joint_batch(size: int, tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(worker, args=(size, str(tmp_path)), nprocs=size)
    for rank in range(size):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in LOSSES:
            expected = joint_step(name, Workers(), (ROWS,))
            assert found[name].keys() == expected.keys()
            assert expected["image.weight"].abs().sum() > 0
            for part, value in expected.items():
                message = f"{name}, rank {rank}: {part}"
                torch.testing.assert_close(
                    found[name][part], value, rtol=1e-10, atol=1e-12, msg=lambda text, at=message: f"{at}: {text}"
                )


def test_soft_labels_of_workers_add_up_too(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(soft_label_worker, args=(2, str(tmp_path)), nprocs=2)
    expected = soft_label_step(Workers(), (ROWS,))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for part, value in expected.items():
            torch.testing.assert_close(found[part], value, rtol=1e-12, atol=1e-13)


def soft_label_step(workers: Workers, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    scores, teacher = batch(ROWS)
    mine = workers.rows(sizes)
    module = SoftLabelLoss().double()
    share = module(scores[mine], teacher[mine], workers=workers)["soft-label"]
    (share * workers.size).backward()  # data parallelism averages
    workers.average_gradients(module.parameters())
    return {"loss": workers.sum(share)} | {path: p.grad for path, p in module.named_parameters()}


def soft_label_worker(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    torch.save(soft_label_step(Workers.of_process_group(), SIZES[size]), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
