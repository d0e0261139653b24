"""The whole line in plain processes, small: artefacts, runs, models, and what a second call does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_bcls: Callable[..., Any], small_settings: tuple[str, ...]
) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("line")
    bcls = make_bcls(folder / "root", folder, None)
    return bcls, bcls.json("run", "-c", "demo", "--local", settings=small_settings)


def client_of(bcls: Any) -> MlflowClient:
    return MlflowClient(
        tracking_uri=f"sqlite:///{bcls.root}/mlflow.db", registry_uri=f"sqlite:///{bcls.root}/mlflow.db"
    )


def test_every_kind_is_published_once(finished: tuple[Any, Any]) -> None:
    bcls, result = finished
    listed = bcls.json("artifacts", "list")["artifacts"]
    assert sorted(item["kind"] for item in listed) == ["corpus", "labels", "training"]
    assert all(item["current"] for item in listed)
    by_kind = {item["kind"]: item for item in listed}
    for kind in by_kind:
        assert by_kind[kind]["content_digest"] == result[kind]["content_digest"]
        assert bcls.json("artifacts", "verify", kind)["problems"] == []


def test_a_second_call_finds_everything_and_changes_nothing(
    finished: tuple[Any, Any], small_settings: tuple[str, ...]
) -> None:
    bcls, first = finished
    before = {run.info.run_id: run.info.end_time for run in runs_of(client_of(bcls))}
    second = bcls.json("run", "-c", "demo", "--local", settings=small_settings)
    assert [second[kind]["state"] for kind in ("corpus", "labels", "training")] == ["already there"] * 3
    assert second["evaluation"] == first["evaluation"]
    assert second["registered"] == first["registered"]
    assert {run.info.run_id: run.info.end_time for run in runs_of(client_of(bcls))} == before


def runs_of(client: MlflowClient) -> list[Any]:
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_one_finished_run_per_job_with_params_metrics_inputs_and_figures(finished: tuple[Any, Any]) -> None:
    bcls, result = finished
    client = client_of(bcls)
    runs = {run.data.tags["flow"]: run for run in runs_of(client)}
    assert sorted(runs) == ["evaluate", "ingest", "label", "train"]
    assert len(runs_of(client)) == 4
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    train = runs["train"]
    assert train.data.params["train.batch_size"] == "32"
    assert train.data.params["train.objective.0.loss"] == "triplet"
    history = client.get_metric_history(train.info.run_id, "val/rsum")
    assert [entry.step for entry in history] == [0, 1, 2]
    digests = {item.dataset.name.split("-")[0]: item.dataset.digest for item in train.inputs.dataset_inputs}
    assert digests == {kind: result[kind]["content_digest"][:10] for kind in ("corpus", "labels")}
    files = {item.path for item in client.list_artifacts(train.info.run_id)}
    assert {"training.png", "recipe.json"} <= files
    assert runs["evaluate"].data.metrics["test/t2i/r10"] == pytest.approx(result["evaluation"]["metrics"]["t2i/r10"])


def test_the_champion_is_registered_once_and_tagged_with_its_training(finished: tuple[Any, Any]) -> None:
    bcls, result = finished
    client = client_of(bcls)
    versions = client.search_model_versions("name='demo'")
    assert len(versions) == 1
    champion = client.get_model_version_by_alias("demo", "champion")
    assert champion.tags["bcls.training"] == result["training"]["version"]
    assert champion.run_id in {run.info.run_id for run in runs_of(client)}


def test_each_flow_alone_finds_what_the_run_made(finished: tuple[Any, Any], small_settings: tuple[str, ...]) -> None:
    bcls, result = finished
    for flow, kind in (("ingest", "corpus"), ("label", "labels"), ("train", "training")):
        again = bcls.json(flow, "-c", "demo", "--local", settings=small_settings)
        assert (again["version"], again["state"]) == (result[kind]["version"], "already there")
    evaluated = bcls.json("evaluate", "--model", "models:/demo@champion", "--local")
    assert evaluated["metrics"] == pytest.approx(result["evaluation"]["metrics"])


def test_a_recipe_without_its_corpus_says_which_command_makes_it(bcls: Any, small_settings: tuple[str, ...]) -> None:
    done = bcls.start("label", "-c", "demo", "--local", settings=small_settings)
    _, errors = done.communicate()
    assert done.returncode == 2
    assert "`bcls ingest` with the same -c" in " ".join(errors.split())


@pytest.mark.parametrize("to", ["images", "captions"])
def test_search_finds_from_text_and_from_an_image(finished: tuple[Any, Any], to: str, tmp_path: Path) -> None:
    bcls, _ = finished
    page = tmp_path / "page.html"
    by_text = bcls.json(
        "search",
        "--model",
        "models:/demo@champion",
        "--text",
        "a red boat",
        "--to",
        to,
        "--top",
        "5",
        "--html",
        str(page),
    )
    assert len(by_text["hits"]) == 5
    scores = [hit["score"] for hit in by_text["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert page.read_text().count("<li>") == 5
    picture = tmp_path / "picture.png"
    write_first_image(bcls.root, picture)
    by_image = bcls.json(
        "search", "--model", "models:/demo@champion", "--image", str(picture), "--to", to, "--top", "3"
    )
    if to == "images":
        assert by_image["hits"][0]["score"] == pytest.approx(1.0, abs=1e-5), "the picture itself is in the gallery"


def write_first_image(root: Path, path: Path) -> None:
    from bcls_core.store import Store

    for table in Store(str(root)).current("corpus").scan("images"):
        if table.num_rows and table["split"][0].as_py() == "test":
            path.write_bytes(table["image"][0].as_py())
            return


def test_a_fresh_process_ranks_captions_through_mlflow(finished: tuple[Any, Any], tmp_path: Path) -> None:
    import subprocess
    import sys

    bcls, _ = finished
    picture = tmp_path / "picture.png"
    write_first_image(bcls.root, picture)
    script = f"""
import mlflow, pandas
mlflow.set_tracking_uri("sqlite:///{bcls.root}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/demo@champion")
image = open({str(picture)!r}, "rb").read()
captions = ["a red boat", "a tree", "a house at night"]
ranked = model.predict(pandas.DataFrame({{"image": [image] * 3, "caption": captions}}))
assert sorted(ranked["rank"]) == [1, 2, 3], ranked
assert ranked.sort_values("rank")["score"].is_monotonic_decreasing, ranked
print("ranked", len(ranked))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=bcls.environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ranked 3" in done.stdout
