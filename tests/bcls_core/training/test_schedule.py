"""Learning rate and parameter groups."""

from __future__ import annotations

from itertools import pairwise

import pytest
from torch import nn

from bcls_core.config import load_recipe
from bcls_core.config.train import TrainSettings
from bcls_core.losses import InfoNCELoss, SigLIPLoss, TripletLoss
from bcls_core.training.schedule import build_optimiser, learning_rate
from flows import recipes


def settings(**changes: float) -> TrainSettings:
    return load_recipe(recipes.find("demo")).train.model_copy(update=changes)


def test_rises_then_falls_to_the_final_rate() -> None:
    chosen = settings(learning_rate=1.0, final_learning_rate=0.1, warmup=0.1)
    rates = [learning_rate(step, 100, chosen) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10 + 44] == pytest.approx(0.1 + 0.9 * 0.5, abs=0.02), "half way down in the middle of the cosine"


def test_without_warm_up_starts_at_the_top() -> None:
    assert learning_rate(0, 10, settings(learning_rate=0.5, warmup=0.0)) == pytest.approx(0.5)


def test_only_matrices_decay_and_only_trained_parameters_are_optimised() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    decayed, plain = build_optimiser(model, nn.Module(), settings(weight_decay=0.3)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert decayed["weight_decay"] == pytest.approx(0.3)
    assert [tuple(p.shape) for p in plain["params"]] == [(4,), (4,), (4,)]
    assert plain["weight_decay"] == 0.0


def test_what_a_loss_learns_has_a_group_of_its_own_that_does_not_decay() -> None:
    objective = nn.ModuleList([InfoNCELoss(), SigLIPLoss(), TripletLoss()])
    *_, own = build_optimiser(nn.Linear(3, 4), objective, settings(weight_decay=0.3)).param_groups
    assert len(own["params"]) == 3
    assert {id(p) for p in own["params"]} == {id(p) for p in objective.parameters()}
    assert own["weight_decay"] == 0.0
