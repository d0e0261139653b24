"""The README of training: its settings are settings, its figures are those of the committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from bcls_core import training
from bcls_core.config import Recipe, load_recipe
from flows import recipes
from flows.result import with_interval
from tests.benchmarks import record
from tests.faults.records import RESULTS

README = (Path(training.__file__).parent / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(README.split())


def blocks() -> list[Any]:
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)]


def test_the_teachers_shown_can_be_asked_for() -> None:
    given, _ = blocks()
    recipe = load_recipe(recipes.find("demo")).model_dump()
    shown = Recipe.model_validate(
        recipe | {"label": given["label"], "train": recipe["train"] | {"objective": given["train"]["objective"]}}
    )
    assert [teacher.kind for teacher in shown.label.image_teachers.values()] == ["vision", "descriptors", "features"]
    assert [term.loss for term in shown.train.objective] == ["info-nce", "soft-label", "soft-label"]


def test_the_training_settings_shown_are_settings() -> None:
    _, given = blocks()
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
    found = record.read("related_batches")
    assert found["seeds"] == [0, 1, 2]
    shares = [found["labels"][batches]["pairs above p90"] for batches in ("related, half", "random")]
    assert f"{100 * shares[0]:.1f} % instead of {100 * shares[1]:.1f} % of label pairs" in TEXT
    changes = {}
    for objective, splits in found["trained"].items():
        of_val = splits["val"]["related, half"]
        for name, digits in (("rsum", 1), ("label/minilm/t2i/kendall", 3)):
            difference = of_val[name]
            bounds = difference["low"], difference["high"]
            changes[objective, name] = with_interval(difference["difference"], bounds, digits)
    soft, hardest = "soft triplet and Kendall", "hardest triplet"
    assert f"by {changes[soft, 'rsum']} with the soft triplet and Kendall losses" in TEXT
    assert f"by {changes[hardest, 'rsum']} with the hardest triplet" in TEXT
    taus = [changes[objective, "label/minilm/t2i/kendall"] for objective in (soft, hardest)]
    assert f"tau-b with the labels by {taus[0]} and {taus[1]}" in TEXT


def test_what_soft_labels_cost_is_what_was_measured() -> None:
    found = record.read("soft_label_cost")
    times, speeds, memory = found["time of contrastive alone"], found["pairs a second"], found["MiB"]
    assert found["rounds"] == 5
    assert times["from the label set"] <= 1.02
    assert memory["from the label set"] <= 1.05 * memory["contrastive alone"]
    assert f"trains {speeds['contrastive alone']:.0f} pairs a second on two cores with InfoNCE alone" in TEXT
    assert f"an epoch takes {times['from the label set']:.3f} times as long with `cusa-released`" in TEXT
    assert f"holds {memory['contrastive alone']:,} MiB without and {memory['from the label set']:,} MiB with it" in TEXT
    assert f"make it {times['live teachers']:.1f} times as long, in {memory['live teachers']:,} MiB" in TEXT


def soft_label_rows(found: Any) -> list[str]:
    """The table of what soft labels change: a row for each recipe and method."""
    shown = ("i2t/r1", "t2i/r1", "i2i/r1", "c2c/r1", "rsum")
    names = ("InfoNCE", "CSA", "USA", "CSA and USA", "CUSA", "CSA and USA corpus-wide")
    rows = []
    for recipe, splits in found["recipes"].items():
        methods = splits["test"]["methods"]
        for name in [one for one in names if one in methods]:
            cells = []
            for metric in shown:
                own, less = methods[name]["metrics"][metric], methods[name]["differences"].get(metric)
                value, of = (own["estimate"], own) if less is None else (less["difference"], less)
                sign = "" if less is None or value < 0 else "+"
                cells.append(sign + with_interval(value, (of["low"], of["high"]), 1))
            rows.append(f"| `{recipe}` | {name} | {' | '.join(cells)} |")
    return rows


def test_what_soft_labels_change_is_what_was_measured() -> None:
    found = record.read("soft_labels")
    assert all(split["seeds"] == [0, 1, 2] for splits in found["recipes"].values() for split in splits.values())
    shown = [line for line in README.splitlines() if re.match(r"\| `(coco-mini-cusa|flickr8k-methods)` \|", line)]
    assert shown == soft_label_rows(found)
    by_temperature = found["recipes"]["coco-mini-cusa"]["val"]["corpus-wide less batch, by temperature"]
    said = {}
    for temperature, metrics in by_temperature.items():
        rsum = metrics["rsum"]
        said[temperature] = with_interval(rsum["difference"], (rsum["low"], rsum["high"]), 1)
    assert f"rsum differs by {said['1.0']} on the validation split" in TEXT
    assert f"at the default, 0.05, by {said['0.05']}" in TEXT


def test_what_it_costs_is_what_was_measured() -> None:
    throughput, cache = record.read("training_throughput"), record.read("gradient_cache")
    pairs = throughput["pairs a second"]
    alone, each = throughput["one worker to plain"], throughput["each of two workers to plain"]
    assert throughput["rounds"] == 5
    assert f"a worker alone trains {pairs['one worker']:.0f} pairs a second, {alone:.2f} of what a plain loop" in TEXT
    assert f"two workers on Ray trains {pairs['each of two workers']:.0f}, {each:.2f} of each of two plain" in TEXT
    assert cache["rows"]["cached"] == 8 * cache["rows"]["small batch"]
    memory, seconds = cache["memory, cached to small"], cache["seconds, cached to at once"]
    assert (
        f"eight times the batch takes {memory:.2f} times the memory of the small one, and {seconds:.2f} times" in TEXT
    )
    reads = record.read("random_reads")
    speeds = reads["pictures a second"]
    assert f"corpus of {reads['corpus MB']} MB through a cache of {reads['cache MB']} MB" in TEXT
    assert f"MB: {speeds['stored as they are']:,} a second from their places" in TEXT
    assert f"{reads['to a file each']:.2f} of what a file each would give and {reads['to compressed']} times" in TEXT
    assert f"{speeds['stored as they are, first pass']:,} a second while the places are being found" in TEXT


def test_what_kills_cost_is_what_was_measured() -> None:
    """All that were planned hit, no claim failed, and each cost at most a checkpoint interval."""
    found = json.loads((RESULTS / "train_kills.json").read_text())
    runs, kills = found["runs"], sum(found["kills"].values())
    assert [*found["failed"], *(failed for run in runs for failed in run["failed"])] == []
    assert set(found["kills"].values()) == {found["kills"]["worker"]}
    hits = [kill for run in runs for kill in run["kills"] if "missed" not in kill]
    assert len(hits) == kills
    lost = sum(run["steps_begun"] - run["steps"] for run in runs)
    assert f"{len(runs)} trainings with {kills} kills, {found['kills']['worker']} of each kind" in TEXT
    assert f"cost {lost / kills:.1f} steps on average" in TEXT
    assert f"a checkpoint every {found['checkpoint_steps']} steps" in TEXT
    assert all(run["steps_begun"] - run["steps"] <= found["checkpoint_steps"] * len(run["kills"]) for run in runs)
