"""Compiled towers: the losses and gradients of eager ones, few compilations, and models that need none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional

from bcls_core.config import CustomStudent
from bcls_core.data.rows import CorpusRows
from bcls_core.students import Student, load_student
from bcls_core.training.batches import Batch, BatchSource, InputSource
from bcls_core.training.encoder import StepEncoder
from bcls_core.training.history import read_history
from bcls_core.training.initial import load_initial
from bcls_core.training.loop import Engine, TrainingJob, train
from bcls_core.training.plan import batch_plan
from bcls_core.workers import Workers

COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: install g++"),
]
SCALED = CustomStudent(kind="custom", target="tests.bcls_core.training.scaled_student:ScaledStudent")


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def step(encoder: StepEncoder, student: Student, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """A contrastive loss, and its gradients."""
    student.zero_grad()
    encoded = encoder.encode(batch, (0, 1, 2, 0))
    scores = encoded.images @ encoded.captions.T / 0.07
    loss = functional.cross_entropy(scores, torch.arange(len(scores)))
    encoded.backward(loss)
    return float(loss.detach()), {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}


def compare(job: TrainingJob, piece: int | None, sizes: list[int]) -> list[int]:
    """Compares steps in batches of these sizes; the number of graphs that were compiled until the end of each."""
    eager, compiled = (load_initial(job.draft).train() for _ in range(2))
    encoders = [
        StepEncoder(eager, Workers(), piece=piece), StepEncoder(compiled, Workers(), piece=piece, compiled=True)
    ]  # fmt: skip
    rows = CorpusRows(job.corpus, "train")
    source = BatchSource(InputSource(rows, eager.preprocessor), {})
    graphs = []
    for size in sizes:
        batch = source.batch(batch_plan(rows.caption_image, size, seed=0, epoch=1), 0, 0, 1)
        loss, gradients = step(encoders[0], eager, batch)
        found, its_gradients = step(encoders[1], compiled, batch)
        graphs.append(counters["stats"]["unique_graphs"])
        assert found == pytest.approx(loss, rel=1e-5)
        assert its_gradients.keys() == gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        apart = max(float((its_gradients[name] - one).abs().max()) for name, one in gradients.items()) / largest
        assert apart < 1e-5
    return graphs


@pytest.mark.timeout(1200)
def test_losses_and_gradients_are_those_of_eager_towers(ground: Any) -> None:
    """A convolutional and a text tower, in batches of four sizes: the second is compiled for all that follow."""
    graphs = compare(ground.begin("compile"), None, [28, 20, 25, 17])
    assert 1 <= graphs[0] < graphs[1] == graphs[-1] <= 4, graphs


def test_so_they_are_with_gradient_caching(ground: Any) -> None:
    graphs = compare(ground.begin("compile-pieces", student=SCALED), 7, [28, 20, 25, 17, 26])
    assert graphs[0] >= 2, "with and without gradients"
    assert graphs[1] == graphs[-1] <= 8, graphs


def test_a_training_with_it_ends_with_a_model_that_needs_none(ground: Any) -> None:
    eager, compiled = (ground.begin(f"compile-{name}", student=SCALED, epochs=2) for name in ("eager", "compiled"))
    train(eager, Workers(), lambda *_: None)
    assert counters["stats"]["unique_graphs"] == 0
    train(replace(compiled, engine=Engine(compiled=True)), Workers(), lambda *_: None)
    assert 0 < counters["stats"]["unique_graphs"] <= 4
    drafts = (eager.draft, compiled.draft)
    artifacts = [draft.commit(fingerprint={"training": draft.version}, schema="training/1") for draft in drafts]
    losses = [[epoch["train/loss"] for epoch in read_history(artifact).epochs[1:]] for artifact in artifacts]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    models = [load_student(artifact.local("model")) for artifact in artifacts]
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    assert type(models[1]) is type(models[0])
