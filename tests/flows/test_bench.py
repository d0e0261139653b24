"""Methods side by side: what is trained, what is said of it, and what a second call finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bcls_core.config import EvaluateSettings, Recipe, load_methods
from bcls_core.errors import ConfigError, StalePublicationError
from bcls_core.store import Artifact
from bcls_core.workers import usable_processors
from flows import bench, compare, recipes, train
from flows.context import Context
from flows.produce import Produced
from tests.bcls_core.teachers.test_image import build

METHODS = "methods={soft: {}, hardest: {objective: [{loss: triplet, mining: hardest}]}}"


class Bench:
    """Two methods and two seeds of each, under one root."""

    def __init__(self, root: Path, settings: tuple[str, ...]) -> None:
        self.settings = (*settings, "train.seed=5", METHODS)
        self.methods: dict[str, Recipe] = load_methods(recipes.find("demo"), [*self.settings, "runtime.backend=local"])
        recipe = self.methods["soft"]
        self.context = Context(recipe.name, recipe.runtime, str(root))
        self.result = bench.run(self.context, self.methods, seeds=2)

    def runs(self) -> list[Any]:
        client = self.context.tracker.client
        experiment = client.get_experiment_by_name("demo")
        return list(client.search_runs([experiment.experiment_id], "tags.`bcls.method` LIKE '%'"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_settings: tuple[str, ...]) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.setenv(name, "")
            patch.delenv(name)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        bench_made = Bench(tmp_path_factory.mktemp("bench") / "root", small_settings)
        torch.set_num_threads(threads)
        yield bench_made


def test_every_method_has_every_seed(made: Bench) -> None:
    found = made.result.as_dict()
    assert [(one["method"], one["seed"]) for one in found["runs"]] == [
        ("soft", 5),
        ("hardest", 5),
        ("soft", 6),
        ("hardest", 6),
    ], "an interrupted bench has whole rounds of methods"
    assert len({one["training"] for one in found["runs"]}) == 4
    for one in found["runs"]:
        settings = made.context.store.resolve("training", one["training"]).manifest.fingerprint["settings"]
        assert settings["seed"] == one["seed"]
        assert settings["objective"][0]["mining"] == one["method"]
        assert 0 <= one["best_epoch"] <= settings["epochs"]


def test_differences_are_those_of_compare(made: Bench) -> None:
    found = made.result.as_dict()
    versions = [one["training"] for name in ("soft", "hardest") for one in found["runs"] if one["method"] == name]
    compared = compare.run(made.context, versions, EvaluateSettings()).as_dict()
    for name, group in zip(("soft", "hardest"), compared["groups"], strict=True):
        assert found["methods"][name]["metrics"] == group["metrics"]
    assert found["methods"]["hardest"]["differences"] == compared["differences"][0]["metrics"]
    assert found["methods"]["soft"]["differences"] == {}
    two = [one["metrics"]["rsum"] for one in found["runs"] if one["method"] == "hardest"]
    assert found["methods"]["hardest"]["metrics"]["rsum"]["estimate"] == pytest.approx(sum(two) / 2)


def test_one_experiment_holds_all_and_names_the_methods(made: Bench) -> None:
    runs = made.runs()
    assert sorted((run.data.tags["bcls.method"], run.data.tags["bcls.seed"], run.info.run_name) for run in runs) == [
        (method, seed, f"{method}, seed {seed}: {what}")
        for method in ("hardest", "soft")
        for seed in ("5", "6")
        for what in ("evaluate test", "train")
    ]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_what_is_there_is_not_made_again(made: Bench) -> None:
    before = {run.info.run_id: run.info.end_time for run in made.runs()}
    again = bench.run(made.context, made.methods, seeds=2)
    assert again.as_dict() == made.result.as_dict()
    assert {run.info.run_id: run.info.end_time for run in made.runs()} == before
    assert len(made.context.store.list("training")) == 4


def test_one_seed_speaks_of_models_alone(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(bench, "say", said.append)
    one = bench.run(made.context, made.methods, seeds=1)
    assert said == ["training 1 of 2: soft, seed 5", "training 2 of 2: hardest, seed 5"]
    assert one.as_dict()["seeds"] == [5]
    assert len(one.as_dict()["runs"]) == 2
    assert "one seed: intervals speak about these trained models" in one.as_text()
    text = made.result.as_text()
    assert "one seed" not in text
    assert "2 seeds of each method" in text
    assert "less soft [95 %]" in text


@pytest.mark.parametrize("inner", ["--local", pytest.param("--set=runtime.workers=1", marks=pytest.mark.slow)])
def test_trainings_side_by_side_are_those_made_one_by_one(
    made: Bench, make_bcls: Callable[..., Any], tmp_path: Path, inner: str
) -> None:
    """Also on Ray, where they share the session that the command began, and its processors."""
    root = tmp_path / "root"
    for kind in ("corpus", "labels"):
        shutil.copytree(Path(made.context.root, kind), root / kind)
    bcls = make_bcls(root, tmp_path, None)
    bcls.environment["OMP_NUM_THREADS"] = "1"
    arguments = ("bench", "methods", "-c", "demo", "--quick", "--at-once", "2", inner)
    found, expected = bcls.json(*arguments, settings=made.settings)["runs"], made.result.as_dict()["runs"][:2]
    assert [one["training"] for one in found] == [one["training"] for one in expected]
    if inner == "--local" or usable_processors() in {2, 3}:  # one thread each, as in this process
        assert found == expected
    said = bcls.said
    assert "soft, seed 5: begun, 1 of 2" in said
    assert "hardest, seed 5: begun, 2 of 2" in said
    bcls.json(*arguments, settings=made.settings)
    assert "begun" not in bcls.said


def test_the_command_says_the_same(made: Bench, make_bcls: Callable[..., Any], tmp_path: Path) -> None:
    bcls = make_bcls(Path(made.context.root), tmp_path, None)
    found = bcls.json("bench", "methods", "-c", "demo", "--seeds", "2", "--local", settings=made.settings)
    assert found == json.loads(json.dumps(made.result.as_dict()))
    quick = bcls.run("bench", "methods", "-c", "demo", "--quick", "--local", settings=made.settings)
    assert "1 seed of each method" in quick
    bcls.run("bench", "methods", "-c", "demo", "--quick", "--seeds", "3", "--local", settings=made.settings, code=2)
    assert "--quick is --seeds 1, and --seeds 3 was given, too" in bcls.said


def test_a_method_that_stayed_as_it_was_is_named(made: Bench) -> None:
    still = {name: with_rate(method, 1e-30) if name == "hardest" else method for name, method in made.methods.items()}
    said = bench.run(made.context, still, seeds=1).as_text()
    assert "no epoch was better on val than the untrained student, which was kept: hardest, seed 5" in said
    assert "untrained" not in made.result.as_text()


def with_rate(recipe: Recipe, rate: float) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"learning_rate": rate})})


def test_a_recipe_without_methods_is_refused_before_anything_is_made(bcls: Any) -> None:
    bcls.run("bench", "methods", "-c", "demo", "--local", code=2)
    assert not bcls.root.exists()


def test_who_cannot_be_trained_is_named_before_anyone_is(made: Bench) -> None:
    known = len(made.context.store.list("training"))
    features = "b: {student: {kind: two-tower, image: {features: 12}, text: {gru: 8}}}"
    methods = load_methods(recipes.find("demo"), [*made.settings, f"methods={{a: {{epochs: 3}}, {features}}}"])
    with pytest.raises(ConfigError, match="takes features"):
        bench.run(made.context, methods, seeds=1)
    last = load_methods(recipes.find("demo"), [*made.settings, f"train.seed={2**64 - 1}"])
    with pytest.raises(ConfigError, match="no 2 seeds from there on"):
        bench.run(made.context, last, seeds=2)
    assert len(made.context.store.list("training")) == known


def test_two_names_of_one_model_are_one_method(made: Bench, tmp_path: Path) -> None:
    one = build(tmp_path / "one", "vit")
    other = shutil.copytree(one, tmp_path / "other")
    student = "{student: {kind: two-tower, image: {model: %s}, text: {gru: 8}}}"
    settings = [setting for setting in made.settings if not setting.startswith("train.student")]
    methods = f"methods={{a: {student % one}, b: {student % other}}}"
    with pytest.raises(ConfigError, match="methods a and b train the same"):
        bench.run(made.context, load_methods(recipes.find("demo"), [*settings, methods]), seeds=1)


def test_what_was_published_meanwhile_does_not_end_a_bench(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def overtaken(context: Context, recipe: Recipe, corpus: Artifact, labels: Artifact) -> Produced:
        tried.append(recipe.train.seed)
        if len(tried) == 1:
            raise StalePublicationError("another one")
        return train.train(context, recipe, corpus, labels)

    monkeypatch.setattr(bench, "train", overtaken)
    assert bench.run(made.context, made.methods, seeds=1).as_dict()["seeds"] == [5]
    assert tried == [5, 5, 5]


@pytest.mark.slow
def test_more_at_once_than_a_cluster_holds_is_refused_before_anything_is_made(bcls: Any) -> None:
    bcls.run("bench", "methods", "-c", "demo", "--at-once", "1000", settings=(METHODS,), code=2)
    asked = "runtime.workers=2, 6 at once, needs 6 CPUs"  # two methods, three seeds: no more to do
    assert asked in bcls.said
    assert "Set --at-once lower" in bcls.said
    assert not (bcls.root / "corpus").exists()
