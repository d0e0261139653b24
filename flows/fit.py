"""The training loop, run here in a plain process or on Ray Train's workers: the same loop, the same draft."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bcls_core.errors import BclsError
from bcls_core.training.checkpoint import finished_epochs
from bcls_core.training.loop import TrainingJob
from bcls_core.training.loop import train as train_loop
from bcls_core.workers import Workers
from flows.backend import own_error
from flows.context import Context
from flows.progress import progress_bar
from flows.tracking import Job, authenticate, log_metrics

log = logging.getLogger(__name__)

_ATTEMPTS = 2


def fit(context: Context, training: TrainingJob, job: Job) -> None:
    """Trains to the end; epochs appear in the MLflow run as they finish."""
    if context.runtime.backend != "local":
        _fit_on_ray(context, training, job)
        return
    log_epoch = _EpochLogger(job.client, job.run_id)
    with progress_bar("training epochs", total=training.settings.epochs + 1) as advance:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            log_epoch(epoch, metrics)
            advance(1)

        train_loop(training, Workers(), on_epoch)


def _fit_on_ray(context: Context, training: TrainingJob, job: Job) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from flows.cluster_session import require_resources

    workers, on_gpu = context.runtime.workers, training.device == "cuda"
    each = {"GPU": 1, "CPU": 1} if on_gpu else {"CPU": 0.5}
    require_resources(workers, cpus=each["CPU"], gpus=int(on_gpu))
    # A run's name is never used twice: Ray would take a finished run of that name for this one. What survives an
    # attempt is the checkpoint in the draft, the same for every backend.
    name = f"{training.draft.version}-{os.getpid()}-{os.urandom(4).hex()}"
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={
            "training": training,
            "mlflow_uri": context.tracker.uri,
            "runtime": context.runtime,
            "run_id": job.run_id,
        },
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpu, resources_per_worker=each),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=f"{context.root}/.ray",
            failure_config=FailureConfig(max_failures=_ATTEMPTS),
        ),
    )
    try:
        with _watched(training):
            trainer.fit()
    except Exception as error:
        raise own_error(error) or BclsError(f"training failed on its workers: {error}") from error
    finally:
        context.store.filesystem.remove_tree(f".ray/{name}")


@contextmanager
def _watched(training: TrainingJob) -> Iterator[None]:
    """A progress bar over the epochs that the workers say they finished."""
    stopped = threading.Event()
    with progress_bar("training epochs", total=training.settings.epochs + 1) as advance:

        def watch() -> None:
            shown = 0
            while not stopped.wait(1.0):
                finished = finished_epochs(training.draft)
                advance(finished - shown)
                shown = finished

        watcher = threading.Thread(target=watch, name="training-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stopped.set()
            watcher.join()


def _train_on_worker(config: dict[str, Any]) -> None:
    import ray.train
    import torch
    from mlflow import MlflowClient

    training: TrainingJob = config["training"]
    workers = Workers.of_process_group()
    if training.device == "cpu":
        here = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))
    log_epoch = None
    if workers.is_first:
        authenticate(config["runtime"])
        log_epoch = _EpochLogger(MlflowClient(tracking_uri=config["mlflow_uri"]), config["run_id"])

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if log_epoch is not None:
            log_epoch(epoch, metrics)
        ray.train.report(metrics)

    train_loop(training, workers, on_epoch)


class _EpochLogger:
    """Epochs into the MLflow run as they finish, each once over all attempts.

    A tracking server that is away must not end a training: what is missing is logged from the finished artefact.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._logged: set[int] | None = None

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        try:
            if self._logged is None:
                history = self._client.get_metric_history(self._run_id, "val/rsum")
                self._logged = {entry.step for entry in history}
            if epoch not in self._logged:
                log_metrics(self._client, self._run_id, metrics, step=epoch)
                self._logged.add(epoch)
        except Exception as error:  # whatever a tracking server or the way to it can do wrong
            log.warning("epoch %d is not in MLflow yet: %s", epoch, error)
