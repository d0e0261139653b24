"""The training loop on Ray Train's workers, and what becomes of it when they, their nodes or Ray itself fail."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from bcls_core.config import RuntimeSettings
from bcls_core.errors import BclsError, StoppedError
from bcls_core.training.feed import prepare_here
from bcls_core.training.history import HISTORY
from bcls_core.training.loop import TrainingJob, train
from bcls_core.workers import Workers, usable_processors
from flows.backend import own_error
from flows.context import Context
from flows.epochs import EpochLogger, epochs_watched
from flows.feed import PrepareOnRay, data_workers
from flows.stopping import file_awaited, sigterm_noted
from flows.tracking import Job, authenticate

log = logging.getLogger(__name__)

_WORKER_FAILURES = 2  # of workers, after which Ray Train starts them again
_START_FAILURES = 2  # likewise, of workers that could not be started within _START_SECONDS
_FITS = 3  # in all, where Ray Train's controller was killed
_START_SECONDS = 60.0
_STOP_FILE = "stop-"
_SAVES = 12  # checkpoints at as many looks after a notice, and then at every look whose number is a power of two
_STOPPED = "training stopped as it was asked to; the same command goes on from its last checkpoint"
_NOTICE_SECONDS = 10.0  # from one look for notices of preemption to the next, and from checkpoint to checkpoint then


def fit_on_ray(context: Context, training: TrainingJob, job: Job) -> None:
    """Trains to the end on the workers that the settings ask for.

    Raises:
        StoppedError: SIGTERM arrived; the step at work was finished, and there is a checkpoint.
        BclsError: training failed, or was killed too often, or could not be started.
    """
    from ray.train import WorkerGroupError

    from flows.cluster_session import renew_ray

    scratch, stop_file = training.draft.scratch, f"{_STOP_FILE}{os.urandom(8).hex()}"
    with sigterm_noted(lambda: scratch.write_bytes(stop_file, b"")) as noted:
        for fits in range(1, _FITS + 1):
            try:
                _fit_once(context, training, job, stop_file)
            except WorkerGroupError as error:
                raise own_error(error) or _died(error, context, training, _WORKER_FAILURES + 1) from error
            except Exception as error:
                own = own_error(error)
                if own is None and noted.is_set():
                    raise StoppedError(_STOPPED) from error
                if own is not None or fits == _FITS:
                    raise own or _not_carried_out(error, context, training, fits) from error
                log.warning("training is begun again, for its controller failed: %s", _first_lines(error))
                # What a killed controller had reserved for its workers stays so until its job ends.
                renew_ray()
                continue
            if noted.is_set() and not training.draft.exists(HISTORY):
                raise StoppedError(_STOPPED)
            return


def _fit_once(context: Context, training: TrainingJob, job: Job, stop_file: str) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from flows.process_group import GlooConfig

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_SECONDS))
    beside, each = require_workers(context.runtime, training.device)
    workers, least = context.runtime.workers, context.runtime.least_workers
    # A run's name is never used twice: Ray would take a finished run of that name for this one. What survives an
    # attempt is the checkpoint in the draft, the same for every backend.
    name = f"{training.draft.version}-{os.getpid()}-{os.urandom(4).hex()}"
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={
            "training": training,
            "mlflow_uri": context.tracker.uri,
            "runtime": context.runtime,
            "data_workers": beside,
            "at_once": context.at_once,
            "run_id": job.run_id,
            "stop_file": stop_file,
        },
        scaling_config=ScalingConfig(
            num_workers=workers if least is None else (least, workers),
            use_gpu="GPU" in each,
            resources_per_worker=each,
            # On CPUs a worker computes with its share of all cores of its node, though it asks for half of one: packed,
            # workers would crowd one node and leave others idle.
            placement_strategy="PACK" if "GPU" in each else "SPREAD",
        ),
        torch_config=TorchConfig(backend="nccl") if "GPU" in each else GlooConfig(),
        run_config=RunConfig(
            name=name,
            storage_path=f"{context.root}/.ray",
            failure_config=FailureConfig(max_failures=_WORKER_FAILURES, controller_failure_limit=_START_FAILURES),
        ),
    )
    try:
        with epochs_watched(training.draft, training.settings.epochs):
            trainer.fit()
    finally:
        context.store.filesystem.remove_tree(f".ray/{name}")


def require_workers(runtime: RuntimeSettings, device: str, at_once: int = 1) -> tuple[int, dict[str, float]]:
    """Processes beside each worker that prepare its inputs, and the resources of one worker with them.

    Args:
        at_once: trainings.
    Raises:
        ConfigError: the cluster could never hold them.
    """
    from flows.cluster_session import require_resources

    beside, each = _needs_of_worker(runtime, device)
    least, gpus = runtime.least_workers or runtime.workers, int(each.get("GPU", 0))
    require_resources(least, cpus=each["CPU"], gpus=gpus, at_once=at_once)
    return beside, each


def _needs_of_worker(runtime: RuntimeSettings, device: str) -> tuple[int, dict[str, float]]:
    """What `require_workers` returns, whether the cluster has it or not."""
    import ray

    from flows.cluster_session import ensure_ray

    ensure_ray()
    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    beside = data_workers(runtime.data_workers, device, nodes)
    return beside, {"GPU": 1, "CPU": 1 + beside} if device == "cuda" else {"CPU": 0.5 * (1 + beside)}


def _died(error: Any, context: Context, training: TrainingJob, times: int) -> BclsError:
    """What to say when workers failed more often than they are started again."""
    failures = [str(failure) for failure in error.worker_failures.values()]
    starved = next((failure for failure in failures if _is_starved(failure)), None)
    if starved is not None:
        return _starved(starved, context, training, times)
    return BclsError(f"training failed on its workers, {times} times: {error}")


def _not_carried_out(error: Exception, context: Context, training: TrainingJob, times: int) -> BclsError:
    """What to say when workers were never started, or Ray Train's controller died over and over."""
    import ray

    if _is_starved(str(error)):
        return _starved(str(error), context, training, times)
    _, wanted = _needs_of_worker(context.runtime, training.device)
    request = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    there = ", ".join(
        f"{ray.available_resources().get(name, 0.0):g} of {ray.cluster_resources().get(name, 0.0):g} {name} free"
        for name in wanted
    )
    return BclsError(
        f"training could not be carried out: {_first_lines(error)}\n  It asked for {context.runtime.workers} workers "
        f"with {request} each; the cluster has {there}."
    )


def _is_starved(message: str) -> bool:
    """Whether Ray killed a process because its node ran out of memory."""
    return any(sign in message for sign in ("OutOfMemory", "memory pressure", "running low on memory"))


def _starved(message: str, context: Context, training: TrainingJob, times: int) -> BclsError:
    settings, workers = training.settings, context.runtime.workers
    encoded = settings.mini_batch_size or -(-settings.batch_size // workers)
    used = next((line.strip() for line in message.splitlines() if "memory" in line.lower()), message)
    return BclsError(
        f"training was killed {times} times for lack of memory, with train.batch_size={settings.batch_size} on "
        f"{workers} workers, {encoded} captions encoded at once by each. Lower train.mini_batch_size (the batch stays "
        f"as it is), or use nodes with more memory. Ray says: {used}"
    )


def _first_lines(error: Exception) -> str:
    """Enough of Ray's long messages to know what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])


def _train_on_worker(config: Mapping[str, Any]) -> None:
    import ray.train
    import torch
    from mlflow import MlflowClient

    training: TrainingJob = config["training"]
    workers = Workers.of_process_group()
    if training.device == "cpu":
        here = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, usable_processors() // (here * config["at_once"])))
    beside: int = config["data_workers"]
    prepare = partial(PrepareOnRay, count=beside) if beside else prepare_here
    log_epoch = None
    if workers.is_first:
        authenticate(config["runtime"])
        log_epoch = EpochLogger(MlflowClient(tracking_uri=config["mlflow_uri"]), config["run_id"])

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if log_epoch is not None:
            log_epoch(epoch, metrics)
        ray.train.report(metrics)

    # Stopping is no error here, for after one Ray Train would start the workers again.
    with file_awaited(training.draft.scratch, config["stop_file"], workers.is_first) as asked, suppress(StoppedError):
        train(training, workers, on_epoch, asked.is_set, prepare, PreemptionNotice(workers))


class PreemptionNotice:
    """Whether Ray says that nodes under this training will be taken away: then checkpoints are written more often.

    Training goes on until a node is gone, which may be never, so a checkpoint at the notice alone would not do. Asking
    Ray is a barrier of all workers; it happens every few seconds. Checkpoints take a fifth of the time at most, and
    grow rare when a node is still there after many of them.
    """

    def __init__(self, workers: Workers, seconds: float = _NOTICE_SECONDS) -> None:
        self._is_first, self._seconds = workers.is_first, seconds
        self._known: frozenset[str] = frozenset()
        self._looks = 0  # since the last change
        self._looked: float | None = None
        self._since, self._pause = time.monotonic(), seconds

    def due(self) -> bool:
        """Whether it is time to look, by the first worker's clock; asked after each step, and so after a checkpoint."""
        now = time.monotonic()
        if self._looked is not None:
            self._pause = max(self._seconds, 4 * (now - self._looked))
            self._looked, self._since = None, now
        return self._is_first and now - self._since >= self._pause

    def given(self) -> bool:
        """Whether nodes will go and it is time for a checkpoint; called on all workers at once, the same on all."""
        import ray.train

        self._looked = time.monotonic()
        info = ray.train.get_preemption_info()
        going = frozenset(info.preempted_node_ids if info else ())
        if going != self._known:
            self._known, self._looks = going, 0
            if going and self._is_first:
                log.warning("nodes will be taken away, checkpoints are written: %s", ", ".join(sorted(going)))
        self._looks += 1
        # By a count, not by a clock, of which each worker has its own.
        return bool(going) and (self._looks <= _SAVES or self._looks.bit_count() == 1)
