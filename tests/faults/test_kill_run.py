"""SIGKILL in labels, training and registration: the same command again finishes, and nothing is doubled."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

SETTINGS = ("train.epochs=3",)


def kill_when(bcls: Any, appears: str, settings: tuple[str, ...]) -> None:
    """Starts the run and kills it at the first sight of a file that matches."""
    process = bcls.start("run", "-c", "demo", "--local", settings=settings)
    deadline = time.monotonic() + 300
    while not any(bcls.root.glob(appears)):
        assert process.poll() is None, f"ended before {appears} appeared: {process.communicate()[1][-3000:]}"
        assert time.monotonic() < deadline, f"{appears} never appeared"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def published(root: Path, kind: str) -> int:
    return len(list((root / kind / "publications").glob("*.json")))


@pytest.mark.slow
def test_three_kills_and_one_result(
    tmp_path: Path, make_bcls: Callable[..., Any], small_settings: tuple[str, ...]
) -> None:
    settings = small_settings + SETTINGS
    calm = make_bcls(tmp_path / "calm", tmp_path, None)
    expected = calm.json("run", "-c", "demo", "--local", settings=settings)

    bcls = make_bcls(tmp_path / "killed", tmp_path, None)
    kill_when(bcls, "labels/*/_work/marks/represent-cider-00001*", settings)
    assert published(bcls.root, "labels") == 0
    kill_when(bcls, "training/*/_work/scratch/best-*.pt", settings)
    assert published(bcls.root, "labels") == 1
    assert published(bcls.root, "training") == 0
    kill_when(bcls, "mlartifacts/models/*/artifacts/**/model.safetensors", settings)
    assert published(bcls.root, "training") == 1
    result = bcls.json("run", "-c", "demo", "--local", settings=settings)

    for kind in ("corpus", "labels", "training"):
        assert result[kind]["content_digest"] == expected[kind]["content_digest"], kind
        assert published(bcls.root, kind) == 1
        assert bcls.json("artifacts", "verify", kind)["problems"] == []
    assert result["evaluation"]["metrics"] == pytest.approx(expected["evaluation"]["metrics"])
    uri = f"sqlite:///{bcls.root}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert sorted(run.data.tags["flow"] for run in runs) == ["evaluate", "ingest", "label", "train"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    train = next(run for run in runs if run.data.tags["flow"] == "train")
    assert [entry.step for entry in client.get_metric_history(train.info.run_id, "val/rsum")] == [0, 1, 2, 3]
    assert len(client.search_model_versions("name='demo'")) == 1


@pytest.mark.slow
def test_sigterm_exits_143_and_the_next_attempt_continues(bcls: Any, small_settings: tuple[str, ...]) -> None:
    settings = (*small_settings, "train.epochs=4")
    process = bcls.start("run", "-c", "demo", "--local", settings=settings)
    deadline = time.monotonic() + 300
    while not any(bcls.root.glob("training/*/_work/scratch/best-*.pt")):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors[-3000:]
    assert published(bcls.root, "training") == 0
    result = bcls.json("run", "-c", "demo", "--local", settings=settings)
    assert result["training"]["state"] == "new"
