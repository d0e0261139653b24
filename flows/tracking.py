"""MLflow: one run per logical job, found again by its fingerprint; datasets, metrics, figures, models."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Read when MLflow is imported: no bars for copying a model's files.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, Experiment, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from bcls_core.config import Recipe, RuntimeSettings
from bcls_core.errors import ConfigError, TrackingError
from bcls_core.store import Artifact

# What MLflow says of its tables and of pip requirements is no news to whoever runs a flow.
for _name in ("mlflow.store.db.utils", "mlflow.utils.requirements_utils", "alembic"):
    logging.getLogger(_name).setLevel(logging.ERROR)

_FINGERPRINT = "bcls.fingerprint"
_BATCH = 1000


class Tracker:
    """The tracking server of a recipe's runtime, and the experiment named after the recipe."""

    def __init__(self, experiment: str, runtime: RuntimeSettings, root: str) -> None:
        authenticate(runtime)
        server = runtime.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = server or _local_uri(root)
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self._experiment = experiment
        self._artifacts = None if server else str(Path(root) / "mlartifacts")

    @property
    def shown_uri(self) -> str:
        """The address without user and password, for messages."""
        scheme, separator, rest = self.uri.partition("://")
        return scheme + separator + rest.rpartition("@")[2]

    @property
    def how_to_look(self) -> str:
        """What opens the MLflow UI: the command for a local store, the address of a server."""
        return self.shown_uri if self.uri.startswith("http") else f"mlflow ui --backend-store-uri {self.shown_uri}"

    def experiment_id(self, name: str | None = None) -> str:
        """The experiment called `name`, or after the recipe; made if there is none."""
        name = name or self._experiment
        found = self._experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=self._artifacts))
            except MlflowException as error:
                # Somebody else made it a moment before.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _experiment_by_name(self, name: str) -> Experiment | None:
        """Whatever a flow does first with the server; so this is where one that is away is noticed."""
        try:
            return self.client.get_experiment_by_name(name)
        except MlflowException as error:
            raise TrackingError(
                f"{self.shown_uri}: the tracking server does not answer ({error.error_code}). Check "
                "runtime.mlflow_uri, MLFLOW_TRACKING_URI, and mlflow_username and mlflow_password."
            ) from error

    def find(self, flow: str, version: str, *, experiment: str | None = None) -> Job | None:
        """The run of a logical job, if there is one; it is left as it is."""
        name = experiment or self._experiment
        found = self._experiment_by_name(name)
        runs = [] if found is None else self._runs(found.experiment_id, flow, version)
        return Job(self.client, runs[0]) if runs else None

    def job(self, flow: str, version: str, *, experiment: str | None = None) -> Job:
        """The one run of a logical job, made at the first attempt and continued by every later one."""
        experiment_id = self.experiment_id(experiment)
        found = self._runs(experiment_id, flow, version)
        if found:
            run = found[0]
            if run.info.status != RunStatus.to_string(RunStatus.FINISHED):
                self.client.update_run(run.info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        else:
            fixed = {_FINGERPRINT: f"{flow}-{version}", "flow": flow, "mlflow.runName": f"{flow}-{version[:8]}"}
            run = self.client.create_run(experiment_id, tags=fixed)
        return Job(self.client, run)

    def _runs(self, experiment_id: str, flow: str, version: str) -> list[Run]:
        wanted = f"tags.`{_FINGERPRINT}` = '{flow}-{version}'"
        return list(self.client.search_runs([experiment_id], wanted, max_results=1, order_by=["start_time ASC"]))


class Job:
    """One MLflow run."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.run_id: str = run.info.run_id
        self.is_finished: bool = run.info.status == RunStatus.to_string(RunStatus.FINISHED)
        self.metrics: dict[str, float] = dict(run.data.metrics)
        self._known_params = set(run.data.params)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.is_finished:
            return
        status = RunStatus.FINISHED if kind is None else RunStatus.KILLED if _is_signal(kind) else RunStatus.FAILED
        self.client.set_terminated(self.run_id, RunStatus.to_string(status))

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Flat parameters, `train.batch_size`-like; those of an earlier attempt stay."""
        params = [Param(key, str(value)[:6000]) for key, value in flatten(settings) if key not in self._known_params]
        for start in range(0, len(params), 100):
            self.client.log_batch(self.run_id, params=params[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        log_metrics(self.client, self.run_id, metrics, step=step)

    def logged_steps(self, metric: str) -> set[int]:
        """Steps at which an earlier attempt already logged `metric`."""
        return {entry.step for entry in self.client.get_metric_history(self.run_id, metric)}

    def log_inputs(self, artifacts: Iterable[Artifact]) -> None:
        """Artefacts as dataset inputs, with the first ten digits of their content digest."""
        datasets = [
            DatasetInput(
                dataset=DatasetEntity(
                    name=f"{artifact.kind}-{artifact.version[:8]}",
                    digest=artifact.content_digest[:10],
                    source_type=artifact.url.partition("://")[0] if "://" in artifact.url else "local",
                    source=json.dumps({"uri": artifact.url}),
                ),
                tags=[InputTag("mlflow.data.context", artifact.kind)],
            )
            for artifact in artifacts
        ]
        self.client.log_inputs(self.run_id, datasets=datasets)

    def set_tags(self, tags: Mapping[str, str | int]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def name(self, name: str) -> None:
        """What lists and charts call the run."""
        self.client.update_run(self.run_id, name=name)

    def log_recipe(self, recipe: Recipe) -> None:
        """The resolved recipe, without its methods and its runtime section, which may hold addresses with passwords."""
        self.client.log_text(
            self.run_id, recipe.model_dump_json(indent=2, exclude={"runtime", "methods"}), "recipe.json"
        )

    def log_files(self, files: Mapping[str, bytes], folder: str) -> None:
        """Files under a folder of the run's artifacts."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, data in files.items():
                Path(scratch, name).write_bytes(data)
            self.client.log_artifacts(self.run_id, scratch, folder)

    def read_files(self, folder: str) -> dict[str, bytes]:
        """What `log_files` left; nothing where it was deleted."""
        found = [item.path for item in self.client.list_artifacts(self.run_id, folder) if not item.is_dir]
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(self.client.download_artifacts(self.run_id, path, scratch)) for path in found]
            return {path.name: path.read_bytes() for path in paths}

    def log_figure(self, figure: Any, path: str) -> None:
        self.client.log_figure(self.run_id, figure, path)


def authenticate(runtime: RuntimeSettings) -> None:
    """Gives this process the recipe's user and password for the tracking server."""
    if runtime.mlflow_username and runtime.mlflow_password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = runtime.mlflow_username
        os.environ["MLFLOW_TRACKING_PASSWORD"] = runtime.mlflow_password.get_secret_value()


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
    """All metrics of one step in one request per thousand."""
    now = int(time.time() * 1000)
    entries = [Metric(key, float(value), now, step) for key, value in metrics.items()]
    for start in range(0, len(entries), _BATCH):
        client.log_batch(run_id, metrics=entries[start : start + _BATCH])


def _is_signal(kind: type[BaseException]) -> bool:
    return issubclass(kind, KeyboardInterrupt | SystemExit)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The leaves of nested settings under dotted names, `objective.0.loss`-like."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for position, item in enumerate(value):
                yield from flatten(item, f"{name}.{position}.")
        else:
            yield name, value


def _local_uri(root: str) -> str:
    if "://" in root:
        raise ConfigError(f"root {root} is not a local folder, so runtime.mlflow_uri must name a tracking server.")
    Path(root).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{root}/mlflow.db"
