"""The README's commands and figures are those that were run."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from bcls_core.config import load_methods
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


def test_what_the_methods_reach_is_that_of_the_committed_results() -> None:
    found = record.read("methods")
    for name, method in found["methods"].items():
        cells = [name]
        for metric, digits in (("rsum", 1), ("human/expert/spearman", 3)):
            own, change = method["metrics"][metric], method["differences"].get(metric)
            cells.append(with_interval(own["estimate"], (own["low"], own["high"]), digits))
            cells.append(change and with_interval(change["difference"], (change["low"], change["high"]), digits))
        tau = method["metrics"]["label/minilm/t2i/kendall"]
        cells.append(with_interval(tau["estimate"], (tau["low"], tau["high"]), 3))
        assert f"| {' | '.join(cell or '' for cell in cells)} |" in README
    assert found["minutes_of_first_seed"] < 40
    assert f"(one seed takes {found['minutes_of_first_seed']:.0f} minutes here)" in " ".join(README.split())
    lines = (record.RESULTS / "methods.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    assert sorted((run["method"], run["seed"]) for run in runs) == sorted(
        (name, seed) for name in found["methods"] for seed in found["seeds"]
    )
    for name, method in found["methods"].items():
        for metric in ("rsum", "human/expert/spearman"):
            mean = statistics.mean(run["metrics"][metric] for run in runs if run["method"] == name)
            assert mean == pytest.approx(method["metrics"][metric]["estimate"], abs=2e-4)


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


def test_the_methods_shown_are_methods(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```yaml\n(methods:\n.*?)^```$", README, re.MULTILINE | re.DOTALL)
    settings = yaml.safe_load(recipes.find("demo").read_text()) | yaml.safe_load(shown)
    settings["label"]["image_teachers"] = {"looks": {"kind": "descriptors"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    methods = load_methods(tmp_path / "recipe.yaml")
    assert [len(method.train.objective) for method in methods.values()] == [1, 3]
    assert methods["CUSA"].train.learning_rate == 5e-4


def test_every_link_to_a_file_leads_to_one() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target
