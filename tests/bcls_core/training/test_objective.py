"""A recipe's objective: every loss of the library, weighted, named, reading the labels it asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import bcls_core.losses
from bcls_core.config import ObjectiveTerm, TrainSettings, load_recipe
from bcls_core.errors import ConfigError
from bcls_core.losses import CrossModalAlignmentLoss, KendallLoss, TripletLoss, soft_label_loss
from bcls_core.similarity import GapQuantiles
from bcls_core.similarity.cosine import cosine_matrix, stored_rows
from bcls_core.training.batches import Relevance, Teachers, Teaching
from bcls_core.training.heads import encoding_dims
from bcls_core.training.objective import _LOSSES, Objective, ScoredPairs
from bcls_core.training.said import SaidByVectors, SaidOfPairs
from flows import recipes

TERM: TypeAdapter[Any] = TypeAdapter(ObjectiveTerm)
GAPS = {"cider": GapQuantiles(np.arange(101) / 100)}
READ_TEACHERS = {"SoftLabelLoss", "CrossModalAlignmentLoss", "UniModalAlignmentLoss"}
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
    assert library - {loss.__name__ for loss in _LOSSES.values()} == READ_TEACHERS


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


@pytest.mark.parametrize("loss", ["triplet", "info-nce", "siglip"])
@pytest.mark.parametrize("treat", ["positive", "ignore"])
def test_what_labels_call_relevant_is_no_negative(loss: str, treat: str) -> None:
    """Alone, and as two workers who see a rectangle a direction."""
    batch, relevances = pairs()
    scores, labels = batch.scores.detach(), relevances["cider"].i2t
    labels[0, 1] = 0.7  # not above it
    objective = Objective([term(loss, related={"relevance": "cider", "above": 0.7, "treat": treat})], GAPS)
    assert objective.measures == {"cider"}
    (found,) = objective(batch, relevances).values()
    own, relevant = torch.eye(8, dtype=torch.bool), labels > 0.7
    told = {"positives": own | relevant} if treat == "positive" else {"positives": own, "ignored": relevant}
    assert (relevant & ~own).sum() > 5
    plain = _LOSSES[loss](**term(loss).settings())
    torch.testing.assert_close(found, next(iter(plain(scores, **told).values())))
    assert found.item() != pytest.approx(next(iter(plain(scores).values())).item(), rel=1e-3)
    apart = ScoredPairs(scores, own, scores.T.clone(), own)
    (joint,) = objective(apart, {"cider": Relevance(labels, labels.T.clone())}).values()
    torch.testing.assert_close(joint, found)


def taught(size: int = 8) -> tuple[ScoredPairs, Teachers]:
    """Encodings of a student, their scores, and two teachers."""
    generator = torch.Generator().manual_seed(2)
    images, captions = (torch.randn(size, 6, generator=generator) for _ in range(2))
    rows = [torch.randn(size, 3, generator=generator) for _ in range(2)]
    looks, words = (torch.nn.functional.normalize(one, dim=1) for one in rows)
    encodings = {"image-image": (images, images), "caption-caption": (captions, captions)}
    pairs = ScoredPairs((images @ captions.T).tanh().requires_grad_(), encodings=encodings)
    said = SaidOfPairs(words @ words.T)
    return pairs, Teachers({Teaching("looks"): SaidByVectors(looks.half(), looks.half())}, {Teaching("cider"): said})


def test_soft_labels_are_compared_with_the_teachers_they_name() -> None:
    pairs, teachers = taught()
    across = term("soft-label", weight=12.8, mode="dot", student_tau=0.3, image_teacher="looks", teacher_tau=0.5)
    within = term("soft-label", weight=64.0, between=["caption-caption", "image-image"], image_teacher="looks")
    dims = {"image-image": 6, "caption-caption": 6}
    read = Teaching("looks"), Teaching("cider")
    objective = Objective([across, within], GAPS, [read, read], dims, seed=3)
    assert (objective.image_teachers, objective.caption_teachers) == ({Teaching("looks")}, {Teaching("cider")})
    found = objective(pairs, {}, teachers)
    looks, words = (
        side[Teaching(name)].matrix() for side, name in ((teachers.images, "looks"), (teachers.captions, "cider"))
    )
    loss = CrossModalAlignmentLoss("dot", student_tau=0.3, teacher_tau=0.5)(pairs.scores, looks, words)
    assert list(found) == [
        "loss/soft-label/image-caption-0", "loss/soft-label/image-image-1", "loss/soft-label/caption-caption-1",
    ]  # fmt: skip
    torch.testing.assert_close(found["loss/soft-label/image-caption-0"], 12.8 * loss["image-caption"])
    for side, teacher in (("image-image", looks), ("caption-caption", words)):
        head = objective.heads.get_submodule(side)
        unit = torch.nn.functional.normalize(head(pairs.encodings[side][0]), dim=1)
        expected = soft_label_loss(unit @ unit.T, teacher, student_tau=0.45)
        torch.testing.assert_close(found[f"loss/soft-label/{side}-1"], 64 * expected / 2)
    learned = objective.learned()
    assert learned.pop("learned/soft-label-0/tau") == pytest.approx(0.3)
    assert learned == pytest.approx(dict.fromkeys(WITHIN_TAUS, 0.45))


WITHIN_TAUS = ("learned/soft-label-1/caption-caption/tau", "learned/soft-label-1/image-image/tau")


def test_vectors_are_compared_as_a_label_set_compares_them() -> None:
    rows = stored_rows(np.random.default_rng(0).normal(size=(7, 33)) * 3)
    said = SaidByVectors.of(rows[:3], rows).to(torch.device("cpu"))
    np.testing.assert_allclose(said.matrix().numpy(), cosine_matrix(rows[:3], rows), atol=3e-7)


def test_heads_are_those_of_the_seed_and_of_the_sides_that_are_asked_for() -> None:
    def heads(seed: int, *sides: str) -> dict[str, torch.Tensor]:
        asked = term("soft-label", between=sides)
        state = Objective([asked], GAPS, None, dict.fromkeys(sides, 6), seed).state_dict()
        return {name: value for name, value in state.items() if "heads" in name}

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = (heads(seed, "image-image") for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())
    assert {name.split(".")[1] for name in one} == {"image-image"}
    assert heads(0, "image-image", "caption-caption")["heads.image-image.1.weight"].equal(
        one["heads.image-image.1.weight"]
    )


@pytest.mark.parametrize(
    ("asked", "there", "live", "message"),
    [
        (
            {},
            [],
            [],
            r"image_teacher: there is none \(add one to label.image_teachers\), in labels and train.live",
        ),
        ({}, ["a", "b"], [], "image_teacher must be named where there is not just one: there are a, b"),
        ({}, ["a"], ["b"], "image_teacher must be named where there is not just one: there are a, b"),
        ({"image_teacher": "c"}, ["a"], [], "image_teacher: no 'c', there is a"),
        ({"caption_teacher": "c"}, ["a"], [], "caption_teacher: no 'c', there is cider"),
        ({}, ["a"], ["a"], "live_teachers: 'a' is there already, in labels"),
        ({"labels": "corpus"}, [], ["a"], "corpus are those of a label set, and 'a' is in train.live_teachers"),
    ],
)
def test_teachers_that_are_not_there_are_named(
    asked: dict[str, str], there: list[str], live: list[str], message: str
) -> None:
    demo = load_recipe(recipes.find("demo")).train
    given = {
        "objective": [{"loss": "triplet"}, {"loss": "soft-label"} | asked],
        "live_teachers": {"images": {name: {"kind": "descriptors"} for name in live}},
    }
    settings = TrainSettings.model_validate(demo.model_dump() | given)
    with pytest.raises(ValueError, match=message):
        settings.teachers_read(there, ["cider"], "labels")


def test_a_side_without_vectors_has_no_scores_within() -> None:
    with pytest.raises(ConfigError, match=r"between image-image needs a vector for each.*shape \(1, 36, 8\)"):
        encoding_dims({"image-image": torch.zeros(1, 36, 8)})
    several: Any = (torch.zeros(1, 8), torch.zeros(1, 8))
    with pytest.raises(ConfigError, match=r"between caption-caption needs a vector for each.*as <class 'tuple'>"):
        encoding_dims({"caption-caption": several})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "soft-label", "student_tau": 1.0}, "between lowest=0.1 and highest=0.99"),
        ({"loss": "soft-label", "between": "image-image", "mode": "add"}, "add joins teachers across image-caption"),
        ({"loss": "soft-label", "between": ["image-image", "image-image"]}, "each at most once"),
        ({"loss": "soft-label", "between": []}, "each at most once"),
        (
            {"loss": "soft-label", "between": "image-image", "caption_teacher": "x"},
            "caption_teacher is not read between",
        ),
        ({"loss": "triplet", "related": {"relevance": "cider", "above": -5}}, "greater than -1"),
        ({"loss": "triplet", "related": {"relevance": "cider", "above": 1.0}}, "less than 1"),
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
