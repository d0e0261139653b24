"""A recipe's objective: every loss of the library, weighted, named, reading the labels it asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import bcls_core.losses
from bcls_core.config import ObjectiveTerm
from bcls_core.losses import KendallLoss, TripletLoss
from bcls_core.similarity import GapQuantiles
from bcls_core.training.batches import Relevance
from bcls_core.training.objective import _LOSSES, Objective, ScoredPairs

TERM: TypeAdapter[Any] = TypeAdapter(ObjectiveTerm)
GAPS = {"cider": GapQuantiles(np.arange(101) / 100)}
GRADED = ("kendall", "language-guided-margin", "ladder", "s-ndcg", "soft-spearman", "cosent")


def term(loss: str, **settings: Any) -> Any:
    return TERM.validate_python({"loss": loss} | ({"relevance": "cider"} if loss in GRADED else {}) | settings)


def pairs(size: int = 8) -> tuple[ScoredPairs, dict[str, Relevance]]:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(size, size, generator=generator).tanh().requires_grad_()
    labels = torch.rand(size, size, generator=generator).fill_diagonal_(1.0)
    return ScoredPairs(scores), {"cider": Relevance(labels)}


@pytest.mark.parametrize("loss", _LOSSES)
def test_every_loss_can_be_asked_for(loss: str) -> None:
    batch, relevances = pairs()
    objective = Objective([term(loss, weight=3.0), term("triplet", mining="hardest")], GAPS)
    terms = objective(batch, relevances)
    assert all(name.startswith((f"loss/{loss}", "loss/triplet")) for name in terms)
    torch.stack(list(terms.values())).sum().backward()
    assert batch.scores.grad is not None
    assert batch.scores.grad.abs().sum() > 0
    assert objective.measures == ({"cider"} if loss in GRADED else set())


def test_all_losses_of_score_matrices_are_there() -> None:
    library = {name for name in bcls_core.losses.__all__ if name.endswith("Loss")}
    assert library - {loss.__name__ for loss in _LOSSES.values()} == {"SoftLabelLoss"}  # reads a teacher


def test_settings_weights_and_gaps_arrive() -> None:
    batch, relevances = pairs()
    kendall = {"gap": "p30", "sampling": "dead-zone", "window": 2, "hard": True, "surrogate": "softplus", "tau": 0.2}
    objective = Objective([term("kendall", weight=0.5, **kendall), term("triplet", mining="sum", margin=0.4)], GAPS)
    found = objective(batch, relevances)
    labels = relevances["cider"].i2t
    expected = {
        "loss/kendall": 0.5 * KendallLoss(**(kendall | {"gap": 0.3}))(batch.scores, labels)["kendall"],
        "loss/triplet": TripletLoss("sum", margin=0.4)(batch.scores)["triplet"],
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_terms_of_one_loss_are_told_apart() -> None:
    batch, relevances = pairs()
    found = Objective([term("kendall"), term("kendall", gap=0.5), term("ladder")], GAPS)(batch, relevances)
    assert list(found) == ["loss/kendall-0", "loss/kendall-1", "loss/ladder/triplet", "loss/ladder"]


def test_what_is_learned_is_told() -> None:
    objective = Objective([term("info-nce", tau=0.07), term("siglip"), term("triplet")], GAPS)
    expected = {"learned/info-nce/tau": 0.07, "learned/siglip/scale": 10.0, "learned/siglip/bias": -10.0}
    assert objective.learned() == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        next(objective.parameters()).fill_(math.log(5.0))
    assert objective.learned()["learned/info-nce/tau"] == pytest.approx(0.10), "the bound, which is what is used"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "info-nce", "tau": 0.5}, "between lowest=0.01 and highest=0.1"),
        ({"loss": "kendall", "relevance": "cider", "window": 4}, "choose dead-zone or local"),
        ({"loss": "kendall", "relevance": "cider", "sampling": "local"}, "window of at least 2"),
        ({"loss": "kendall", "relevance": "cider", "gap": "60%"}, "percentile from p0 to p99"),
        ({"loss": "kendall"}, "relevance"),
        ({"loss": "ladder", "relevance": "cider", "weights": [1, 2]}, "one weight per threshold"),
        (
            {"loss": "ladder", "relevance": "cider", "thresholds": [0.3, 0.6], "weights": [1, 1], "margins": [0, 0, 0]},
            "descend",
        ),
        ({"loss": "language-guided-margin", "relevance": "cider", "threshold": 1.0}, "less than 1"),
        ({"loss": "hinge"}, "does not match any of the expected tags"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_a_recipe_is_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TERM.validate_python(given)
