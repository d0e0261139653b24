"""Learning rate and parameter groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from torch import nn

from bcls_core.config import load_recipe
from bcls_core.config.train import TrainSettings
from bcls_core.errors import ConfigError
from bcls_core.losses import InfoNCELoss, SigLIPLoss, TripletLoss
from bcls_core.students import Student
from bcls_core.training.objective import Objective
from bcls_core.training.schedule import (
    FirstFrozen,
    build_optimiser,
    check_first_epochs,
    layer_heights,
    learning_rate,
    set_learning_rate,
)
from flows import recipes


class Plain(Student):
    """A student of these parts, of which one may have come with weights."""

    def __init__(self, *parts: nn.Module, pretrained: nn.Module | None = None) -> None:
        super().__init__({}, None)  # type: ignore[arg-type]
        self.parts = nn.ModuleList(parts)
        self._pretrained = () if pretrained is None else (pretrained,)

    @property
    def pretrained_towers(self) -> Sequence[nn.Module]:
        return self._pretrained

    def encode_images(self, batch: Any) -> Any:
        raise NotImplementedError

    encode_captions = encode_images


class Layered(nn.Module):
    """As transformers' encoders are built."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(7, 4)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(
            nn.ModuleDict({"attention": nn.Linear(4, 4), "heads": nn.ModuleList([nn.Linear(4, 4)])}) for _ in range(3)
        )
        self.encoder.relative_attention_bias = nn.Embedding(4, 2)  # read by all layers
        self.pooler = nn.Linear(4, 2)


def settings(**changes: Any) -> TrainSettings:
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
    model = Plain(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model.parts[2].requires_grad_(False)
    decayed, plain = build_optimiser(model, nn.Module(), settings(weight_decay=0.3)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert decayed["weight_decay"] == pytest.approx(0.3)
    assert [tuple(p.shape) for p in plain["params"]] == [(4,), (4,), (4,)]
    assert plain["weight_decay"] == 0.0


def test_what_a_loss_learns_has_a_group_of_its_own_that_does_not_decay() -> None:
    objective = nn.ModuleList([InfoNCELoss(), SigLIPLoss(), TripletLoss()])
    *_, own = build_optimiser(Plain(nn.Linear(3, 4)), objective, settings(weight_decay=0.3)).param_groups
    assert len(own["params"]) == 3
    assert {id(p) for p in own["params"]} == {id(p) for p in objective.parameters()}
    assert own["weight_decay"] == 0.0


def test_pretrained_towers_have_a_rate_of_their_own_that_falls_with_depth() -> None:
    tower, head = Layered(), nn.Linear(2, 2)
    chosen = settings(learning_rate=1e-3, tower_learning_rate=1e-4, layer_decay=0.5)
    optimiser = build_optimiser(Plain(tower, head, pretrained=tower), nn.Module(), chosen)
    set_learning_rate(optimiser, 0.5e-3)  # half way through the schedule
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert rates[id(head.weight)] == rates[id(head.bias)] == pytest.approx(0.5e-3)
    assert rates[id(tower.pooler.weight)] == pytest.approx(0.5e-4)
    for layer, height in ((2, 1), (1, 2), (0, 3)):
        for parameter in tower.encoder.layer[layer].parameters():
            assert rates[id(parameter)] == pytest.approx(0.5e-4 * 0.5**height)
    assert rates[id(tower.embeddings.weight)] == pytest.approx(0.5e-4 * 0.5**4)
    assert rates[id(tower.encoder.relative_attention_bias.weight)] == rates[id(tower.embeddings.weight)]
    assert len(rates) == sum(1 for _ in tower.parameters()) + 2
    bias = next(group for group in optimiser.param_groups if any(p is tower.pooler.bias for p in group["params"]))
    assert bias["weight_decay"] == 0.0


def test_by_default_all_have_one_rate() -> None:
    tower = Layered()
    optimiser = build_optimiser(Plain(tower, pretrained=tower), nn.Module(), settings())
    assert {group["scale"] for group in optimiser.param_groups} == {1.0}
    assert len(optimiser.param_groups) == 2


def test_a_tower_without_layers_has_no_heights() -> None:
    assert {height for _, height in layer_heights(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))} == {0}


def test_towers_stay_frozen_at_first() -> None:
    tower = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    tower[0].bias.requires_grad_(False)  # never trained
    student = Plain(tower, nn.Linear(2, 2), pretrained=tower)
    frozen = FirstFrozen(student, 2)
    asked = []
    for epoch in (1, 2, 3, 4):
        student.train()
        changed = frozen.begin(epoch)
        asked.append((changed, tower[0].weight.requires_grad, tower.training))
        assert student.parts[1].weight.requires_grad
        assert student.parts[1].training
        assert not tower[0].bias.requires_grad
    assert asked == [(True, False, False), (False, False, False), (True, True, True), (False, True, True)]
    assert not FirstFrozen(student, 0).begin(1)


def test_an_epoch_in_which_nothing_would_be_trained_is_refused() -> None:
    tower = nn.Linear(3, 2)
    triplet, learned = (Objective(objective(**term), {}) for term in ({"loss": "triplet"}, {"loss": "info-nce"}))
    check_first_epochs(Plain(tower), triplet, 1)
    check_first_epochs(Plain(nn.Linear(2, 2), tower, pretrained=tower), triplet, 1)
    check_first_epochs(Plain(tower, pretrained=tower), triplet, 0)
    check_first_epochs(Plain(tower, pretrained=tower), learned, 1)
    with pytest.raises(ConfigError, match=r"train\.frozen_epochs=2: .*Set it to 0"):
        check_first_epochs(Plain(tower, pretrained=tower), triplet, 2)


def objective(**term: Any) -> Any:
    return load_recipe(recipes.find("demo"), [f"train.objective=[{json.dumps(term)}]"]).train.objective
