"""The training loop, run here in a plain process or on Ray Train's workers: the same loop, the same draft."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from bcls_core.errors import BclsError
from bcls_core.training.loop import TrainingJob
from bcls_core.training.loop import train as train_loop
from bcls_core.training.parallel import Workers
from flows.context import Context
from flows.progress import progress_bar
from flows.tracking import Job

_ATTEMPTS = 2


def fit(context: Context, training: TrainingJob, job: Job) -> None:
    """Trains to the end; epochs appear in the MLflow run as they finish."""
    logged = job.logged_steps("val/rsum")
    if context.runtime.backend == "local":
        with progress_bar("training epochs", total=training.settings.epochs + 1) as advance:

            def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
                if epoch not in logged:
                    job.log_metrics(metrics, step=epoch)
                advance(1)

            train_loop(training, Workers(), on_epoch)
        return
    _fit_on_ray(context, training, job, logged)


def _fit_on_ray(context: Context, training: TrainingJob, job: Job, logged: set[int]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from flows.cluster_session import ensure_ray

    ensure_ray()
    on_gpu = training.device == "cuda"
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={
            "training": training,
            "mlflow_uri": context.tracker.uri,
            "run_id": job.run_id,
            "logged": sorted(logged),
        },
        scaling_config=ScalingConfig(
            num_workers=context.runtime.workers,
            use_gpu=on_gpu,
            resources_per_worker={"GPU": 1, "CPU": 1} if on_gpu else {"CPU": 0.5},
        ),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        # A run's name is never used twice: Ray would take a finished run of that name for this one. What survives an
        # attempt is the checkpoint in the draft, the same for every backend.
        run_config=RunConfig(
            name=f"{training.draft.version}-{os.getpid()}-{os.urandom(4).hex()}",
            storage_path=f"{context.root}/.ray",
            failure_config=FailureConfig(max_failures=_ATTEMPTS),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        cause = _first_cause(error)
        raise (
            cause if isinstance(cause, BclsError) else BclsError(f"training failed on its workers: {cause}")
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
    return next(iter(failures.values()), error)


def _train_on_worker(config: dict[str, Any]) -> None:
    import ray.train
    import torch
    from mlflow import MlflowClient

    training: TrainingJob = config["training"]
    workers = Workers.of_process_group()
    if workers.size > 1 and training.device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers.size))
    client = MlflowClient(tracking_uri=config["mlflow_uri"])
    log_epoch = _rank_zero_logger(client, config["run_id"], set(config["logged"]))

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if workers.is_first:
            log_epoch(epoch, metrics)
        ray.train.report(metrics)

    train_loop(training, workers, on_epoch)


def _rank_zero_logger(client: Any, run_id: str, logged: set[int]) -> Callable[[int, dict[str, float]], None]:
    from flows.tracking import log_metrics

    def log_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if epoch not in logged:
            log_metrics(client, run_id, metrics, step=epoch)
            logged.add(epoch)

    return log_epoch
