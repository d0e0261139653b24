"""The training loop, run here in a plain process or on Ray Train's workers: the same loop, the same draft."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from bcls_core.errors import BclsError, StoppedError
from bcls_core.store.scratch import Scratch
from bcls_core.training.checkpoint import finished_epochs
from bcls_core.training.history import HISTORY
from bcls_core.training.loop import TrainingJob
from bcls_core.training.loop import train as train_loop
from bcls_core.workers import Workers
from flows.backend import own_error
from flows.context import Context
from flows.progress import progress_bar
from flows.tracking import Job, authenticate, log_metrics

log = logging.getLogger(__name__)

_WORKER_FAILURES = 2  # of workers, after which Ray Train starts them again
_START_FAILURES = 2  # likewise, of workers that could not be started within _START_SECONDS
_FITS = 3  # in all, where Ray Train's controller was killed
_START_SECONDS = 60.0
_STOP_FILE = "stop-"
_STOP_POLL = 0.5  # seconds


def fit(context: Context, training: TrainingJob, job: Job) -> None:
    """Trains to the end; epochs appear in the MLflow run as they finish.

    Raises:
        SystemExit: SIGTERM arrived: 143, after the step at work and a checkpoint. A second SIGTERM does not wait.
        BclsError: training failed, or was killed too often.
    """
    if context.runtime.backend != "local":
        _fit_on_ray(context, training, job)
        return
    log_epoch = _EpochLogger(job.client, job.run_id)
    with _sigterm_noted() as noted, progress_bar("training epochs", total=training.settings.epochs + 1) as advance:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            log_epoch(epoch, metrics)
            advance(1)

        try:
            train_loop(training, Workers(), on_epoch, noted.is_set)
        except StoppedError as error:
            raise _terminated(error) from error


def _fit_on_ray(context: Context, training: TrainingJob, job: Job) -> None:
    from ray.train import WorkerGroupError

    scratch, stop_file = training.draft.scratch, f"{_STOP_FILE}{os.urandom(8).hex()}"
    with _sigterm_noted(lambda: scratch.write_bytes(stop_file, b"")) as noted:
        for fits in range(1, _FITS + 1):
            try:
                _fit_once(context, training, job, stop_file)
            except WorkerGroupError as error:
                raise own_error(error) or _died(error, training, context.runtime.workers) from error
            except Exception as error:
                own = own_error(error)
                if own is not None or fits == _FITS or noted.is_set():
                    raise own or _not_started(error, context, training) from error
                log.warning("training is begun again, for its controller failed: %s", error)
                continue
            if noted.is_set() and not training.draft.exists(HISTORY):
                raise _terminated("training stopped as it was asked to; the same command goes on from its checkpoint")
            return


def _fit_once(context: Context, training: TrainingJob, job: Job, stop_file: str) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from flows.cluster_session import require_resources

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_SECONDS))
    workers, least, each = context.runtime.workers, context.runtime.least_workers, _resources(training)
    require_resources(least or workers, cpus=each["CPU"], gpus=int(each.get("GPU", 0)))
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
            "stop_file": stop_file,
        },
        scaling_config=ScalingConfig(
            num_workers=workers if least is None else (least, workers),
            use_gpu="GPU" in each,
            resources_per_worker=each,
        ),
        torch_config=TorchConfig(backend="nccl" if "GPU" in each else "gloo"),
        run_config=RunConfig(
            name=name,
            storage_path=f"{context.root}/.ray",
            failure_config=FailureConfig(max_failures=_WORKER_FAILURES, controller_failure_limit=_START_FAILURES),
        ),
    )
    try:
        with _watched(training):
            trainer.fit()
    finally:
        context.store.filesystem.remove_tree(f".ray/{name}")


def _resources(training: TrainingJob) -> dict[str, float]:
    """Of one worker."""
    return {"GPU": 1, "CPU": 1} if training.device == "cuda" else {"CPU": 0.5}


def _died(error: Any, training: TrainingJob, workers: int) -> BclsError:
    """What to say when workers failed more often than they are started again."""
    failures = [str(failure) for failure in error.worker_failures.values()]
    starved = any("OutOfMemory" in failure or "memory pressure" in failure for failure in failures)
    if not starved:
        return BclsError(f"training failed on its workers, {_WORKER_FAILURES + 1} times: {error}")
    settings = training.settings
    encoded = settings.mini_batch_size or -(-settings.batch_size // workers)
    return BclsError(
        f"training: workers were killed {_WORKER_FAILURES + 1} times for lack of memory, with train.batch_size="
        f"{settings.batch_size} on {workers} workers, {encoded} captions encoded at once by each. Lower "
        f"train.mini_batch_size (the batch stays as it is), or use nodes with more memory: {failures[0]}"
    )


def _not_started(error: Exception, context: Context, training: TrainingJob) -> BclsError:
    import ray

    request = ", ".join(f"{amount:g} {name}" for name, amount in _resources(training).items())
    there = ", ".join(
        f"{ray.available_resources().get(name, 0.0):g} of {ray.cluster_resources().get(name, 0.0):g} {name} free"
        for name in _resources(training)
    )
    return BclsError(
        f"training could not be carried out: {error}\n  It asked for {context.runtime.workers} workers with {request} "
        f"each; the cluster has {there}."
    )


@contextmanager
def _sigterm_noted(then: Callable[[], None] = lambda: None) -> Iterator[threading.Event]:
    """Inside, the first SIGTERM is noted instead of ending the process, and `then` is called; the next one does end it.

    Without effect outside of the main thread, which is the one that Python tells of signals.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        signal.signal(signal.SIGTERM, before)
        noted.set()
        try:
            then()
        except Exception as error:  # a store that is away: the workers are not told, the next SIGTERM ends them
            log.warning("the workers could not be asked to stop: %s", error)

    signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(why: object) -> SystemExit:
    log.warning("%s", why)
    return SystemExit(StoppedError.exit_code)


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

    # Stopping is no error here, for after one Ray Train would start the workers again.
    with _file_awaited(training.draft.scratch, config["stop_file"], workers.is_first) as asked, suppress(StoppedError):
        train_loop(training, workers, on_epoch, asked.is_set)


@contextmanager
def _file_awaited(scratch: Scratch, name: str, awaited: bool) -> Iterator[threading.Event]:
    """Set once the file is there; one worker looks, the others hear of it with the next step."""
    there, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(_STOP_POLL):
            try:
                if scratch.exists(name):
                    there.set()
                    return
            except Exception as error:  # a store that does not answer now may do so later
                log.debug("whether to stop is not known: %s", error)

    watcher = threading.Thread(target=look, name="stop-file", daemon=True)
    if awaited:
        watcher.start()
    try:
        yield there
    finally:
        over.set()
        if awaited:
            watcher.join()


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
