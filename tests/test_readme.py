"""The README's commands and figures are those that were run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from bcls_core.config import load_recipe
from bcls_core.config.objective import ObjectiveTerm
from flows import recipes
from flows.result import with_interval
from tests.benchmarks import record

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", ["demo", "coco-mini"])
def test_figures_come_from_the_committed_results(recipe: str) -> None:
    result = record.read(recipe)
    metrics = result["metrics"]
    row = re.search(rf"^\| `{result['command']}` \|(.*)\|$", README, re.MULTILINE)
    assert row, f"the README has no row for {result['command']}"
    minutes, chance, *recalls = [cell.strip() for cell in row.group(1).split("|")]
    assert minutes == f"{result['seconds'] / 60:.1f}"
    assert chance == f"{metrics['chance/t2i/r10']:.1f}"
    names = ("t2i/r1", "t2i/r10", "i2t/r1", "i2t/r10", "rsum")
    assert recalls == [with_interval(metrics[name], result["intervals"][name], 1) for name in names]


def test_what_people_say_of_graded_supervision_is_that_of_the_committed_results() -> None:
    found = record.read("supervision")
    for name, title, digits in (
        ("human/expert/spearman", "Spearman with experts", 3),
        ("human/crowd/spearman", "Spearman with a crowd", 3),
        ("sts/cxc_sts_val/spearman", "Spearman with ratings of caption pairs", 3),
        ("label/cider/t2i/kendall", "tau-b with CIDEr labels, not trained on, t2i", 3),
        ("rsum", "rsum", 1),
        ("t2i/r1", "t2i R@1", 1),
    ):
        ours, theirs = (found["groups"][group][name] for group in ("triplet", "triplet and Kendall"))
        difference = found["differences"][name]
        cells = [
            with_interval(ours["estimate"], (ours["low"], ours["high"]), digits),
            with_interval(theirs["estimate"], (theirs["low"], theirs["high"]), digits),
            with_interval(difference["difference"], (difference["low"], difference["high"]), digits),
        ]
        assert f"| {title} | {' | '.join(cells)} |" in README


def test_recipes_reach_what_they_promise() -> None:
    demo, coco = record.read("demo"), record.read("coco-mini")
    assert demo["seconds"] < 4 * 60
    assert demo["metrics"]["t2i/r10"] >= 10 * demo["metrics"]["chance/t2i/r10"]
    assert coco["seconds"] < 15 * 60
    assert coco["metrics"]["t2i/r10"] >= 60


def test_the_two_set_up_commands_are_printed_whole() -> None:
    assert "\npip install -c constraints.txt -e . && bcls demo\n" in README
    assert "\npip install -c constraints.txt -e '.[test]' && pytest\n" in README


def test_the_objective_shown_is_one() -> None:
    (shown,) = re.findall(r"^```yaml\n(train:\n  objective:.*?)^```$", README, re.MULTILINE | re.DOTALL)
    terms = TypeAdapter(list[ObjectiveTerm]).validate_python(yaml.safe_load(shown)["train"]["objective"])
    assert [term.loss for term in terms] == ["info-nce", "kendall"]


def test_the_training_settings_shown_are_settings() -> None:
    page = (REPOSITORY / "bcls_core" / "training" / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    given = yaml.safe_load(shown)
    recipe = load_recipe(recipes.find("demo"))
    for section in ("train", "runtime"):
        settings = getattr(recipe, section)
        changed = type(settings).model_validate(settings.model_dump() | given[section])
        defaults = type(settings).model_fields
        for name in given[section]:
            assert getattr(changed, name) != defaults[name].default, f"{section}.{name} is shown as it is anyway"
    with pytest.raises(ValidationError):
        type(recipe.train).model_validate(recipe.train.model_dump() | {"no_such_setting": 1})


def test_what_related_batches_change_is_what_was_measured() -> None:
    page = " ".join((REPOSITORY / "bcls_core" / "training" / "README.md").read_text(encoding="utf-8").split())
    found = record.read("related_batches")
    assert found["seeds"] == [0, 1, 2]
    shares = [found["labels"][batches]["pairs above p90"] for batches in ("related, half", "random")]
    assert f"{100 * shares[0]:.1f} % instead of {100 * shares[1]:.1f} % of label pairs" in page
    changes = {}
    for objective, splits in found["trained"].items():
        of_val = splits["val"]["related, half"]
        for name, digits in (("rsum", 1), ("label/minilm/t2i/kendall", 3)):
            difference = of_val[name]
            bounds = difference["low"], difference["high"]
            changes[objective, name] = with_interval(difference["difference"], bounds, digits)
    soft, hardest = "soft triplet and Kendall", "hardest triplet"
    assert f"by {changes[soft, 'rsum']} with the soft triplet and Kendall losses" in page
    assert f"by {changes[hardest, 'rsum']} with the hardest triplet" in page
    taus = [changes[objective, "label/minilm/t2i/kendall"] for objective in (soft, hardest)]
    assert f"tau-b with the labels by {taus[0]} and {taus[1]}" in page


def test_every_link_to_a_file_leads_to_one() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target
