"""Encoding a step: gradients a piece at a time are those of the batch, and the rest of what an encoder can do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.errors import ConfigError
from bcls_core.students import Student
from bcls_core.training.batches import Batch
from bcls_core.training.encoder import EncodedStep, StepEncoder, keep_few_activations
from bcls_core.training.initial import load_initial
from bcls_core.workers import Workers

SEED = (0, 1, 2, 0)


class Small(Student):
    """Two layers a side, with dropout and a batch norm."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__({}, None)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.images = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Dropout(dropout), nn.Linear(32, 4))
            self.captions = nn.Sequential(nn.Linear(5, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 4))
            self.norm = nn.BatchNorm1d(6)

    def encode_images(self, batch: Any) -> Tensor:
        return functional.normalize(self.images(batch["x"]), dim=-1)

    def encode_captions(self, batch: Any) -> Tensor:
        return functional.normalize(self.captions(batch["y"]), dim=-1)


class Normed(Small):
    def encode_images(self, batch: Any) -> Tensor:
        return super().encode_images({"x": self.norm(batch["x"])})


def step(rows: int = 37) -> Batch:
    random = torch.Generator().manual_seed(1)
    inputs = (
        {name: torch.randn(rows, width, generator=random)} for name, width in (("x", 6), ("y", 5))
    )  # fmt: skip
    return Batch(*inputs, {}, [rows])


def loss_of(encoded: EncodedStep) -> Tensor:
    """Contrastive: every encoding's gradient depends on all others."""
    scores = encoded.images @ encoded.captions.T / 0.07
    return functional.cross_entropy(scores, torch.arange(len(scores)))


def gradients(student: Student, piece: int | None, batch: Batch | None = None, **options: Any) -> dict[str, Tensor]:
    student.zero_grad()
    encoded = StepEncoder(student.train(), Workers(), piece=piece, **options).encode(batch or step(), SEED)
    encoded.backward(loss_of(encoded))
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("piece", [2, 5, 12, 36, 37, 100])
def test_gradients_of_pieces_are_those_of_the_batch(piece: int) -> None:
    student = Small()
    whole, pieces = gradients(student, None), gradients(student, piece)
    assert whole.keys() == pieces.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-5, atol=1e-6)


def test_both_times_a_piece_is_encoded_with_the_same_random_numbers() -> None:
    """Against one graph of all pieces, each encoded once from its seed."""
    student, batch = Small(dropout=0.5).train(), step()
    found = gradients(student, 12, batch)
    encoder = StepEncoder(student, Workers(), piece=12)
    first, again = encoder.encode(batch, SEED), encoder.encode(batch, SEED)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, encoder.encode(batch, (0, 1, 3, 0)).images), "another step, other numbers"
    student.zero_grad()
    parts = [encoder._forward(student_forward(student), piece) for piece in first._pieces]
    images, captions = (torch.cat(side) for side in zip(*parts, strict=True))
    assert torch.equal(images, first.images)
    assert not torch.equal(images[:9], images[9:18])
    loss_of(EncodedStep(images, captions, encoder)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-6)


def student_forward(student: Student) -> Any:
    return lambda images, captions: (student.encode_images(images), student.encode_captions(captions))


@pytest.mark.parametrize("frozen", [["images"], ["captions"], ["images", "captions"]])
def test_a_side_that_is_frozen_for_now_gets_no_gradient(frozen: list[str]) -> None:
    student = Small()
    for side in frozen:
        getattr(student, side).requires_grad_(False)
    found = gradients(student, 12) if len(frozen) == 1 else {}
    if frozen == ["images", "captions"]:
        encoded = StepEncoder(student, Workers(), piece=12).encode(step(), SEED)
        encoded.backward(loss_of(encoded) * torch.ones((), requires_grad=True))
        found = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    else:
        for name, gradient in gradients(student, None).items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    assert not any(name.split(".")[0] in frozen for name in found)


def test_pieces_differ_by_a_row_and_none_is_larger_than_asked() -> None:
    student, seen = Small(), []
    student.images.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    gradients(student, 12)
    assert seen == [9, 9, 9, 10] * 2, "once for the encodings, once for the gradients"
    seen.clear()
    gradients(student, 37)
    assert seen == [37], "what fits is encoded once"


def test_running_statistics_move_once_a_piece() -> None:
    student = Normed()
    gradients(student, 12)
    assert int(student.norm.num_batches_tracked) == 4


def test_a_buffer_that_is_replaced_moves_once_a_piece() -> None:
    class Counting(Small):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("rows", torch.zeros(()))

        def encode_images(self, batch: Any) -> Tensor:
            self.rows = self.rows + len(batch["x"])
            return super().encode_images(batch)

    student = Counting()
    gradients(student, 12)
    assert int(student.rows) == 37


def test_activations_of_one_piece_are_kept() -> None:
    """Counted in bytes that autograd saves for the backward pass, at any moment."""

    def most(piece: int | None, rows: int) -> int:
        student, batch, held, peak = Small(), step(rows), 0, 0

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal held, peak
                self.tensor, self.bytes = tensor, tensor.numel() * 4
                held += self.bytes
                peak = max(peak, held)

            def __del__(self) -> None:
                nonlocal held
                held -= self.bytes

        encoder = StepEncoder(student.train(), Workers(), piece=piece)
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda one: one.tensor):
            encoded = encoder.encode(batch, SEED)
            grown = torch.autograd.grad(loss_of(encoded), (encoded.images, encoded.captions)) if piece else None
            if grown is None:
                return peak
            held = peak = 0
            encoder.propagate(encoded._pieces, (grown[0], grown[1]))
        return peak

    small = most(None, 64)
    assert most(64, 512) < 1.3 * small < 8 * small * 0.5 < most(None, 512)


def test_bfloat16_is_close_and_gives_float32() -> None:
    student = Small()
    exact = StepEncoder(student.eval(), Workers()).encode(step(), SEED)
    rough = StepEncoder(student, Workers(), bf16=True).encode(step(), SEED)
    assert rough.images.dtype == rough.captions.dtype == torch.float32
    cosines = functional.cosine_similarity(exact.images, rough.images).detach()
    assert 0.999 < float(cosines.min()) < 1
    assert not torch.equal(exact.images, rough.images)
    whole, pieces = gradients(student, None), gradients(student, 12, bf16=True)
    for name, gradient in whole.items():
        assert float((pieces[name] - gradient).norm()) < 0.05 * float(gradient.norm())


def test_activation_checkpointing_changes_no_gradient(ground: Any) -> None:
    student = load_initial(ground.begin("activations").draft)
    found = [gradients(student, None, _step_of(ground, student))]
    keep_few_activations(student)
    assert student.text_tower.model.is_activation_checkpointing
    found.append(gradients(student, None, _step_of(ground, student)))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="no tower of this student supports it"):
        keep_few_activations(Small())


def _step_of(ground: Any, student: Student) -> Batch:
    from bcls_core.data.rows import CorpusRows
    from bcls_core.training.batches import BatchSource, InputSource
    from bcls_core.training.plan import batch_plan

    rows = CorpusRows(ground.corpus, "train")
    plan = batch_plan(rows.caption_image, 12, seed=0, epoch=1)
    return BatchSource(InputSource(rows, student.preprocessor), {}).batch(plan, 0, 0, 1)
