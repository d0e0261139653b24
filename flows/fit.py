"""The training loop, run here in a plain process or on Ray Train's workers: the same loop, the same draft."""

from __future__ import annotations

import logging

from bcls_core.errors import StoppedError
from bcls_core.training.loop import TrainingJob, train
from bcls_core.workers import Workers
from flows.context import Context
from flows.epochs import EpochLogger
from flows.progress import progress_bar
from flows.stopping import sigterm_noted
from flows.tracking import Job

log = logging.getLogger(__name__)


def fit(context: Context, training: TrainingJob, job: Job) -> None:
    """Trains to the end; epochs appear in the MLflow run as they finish.

    Raises:
        SystemExit: SIGTERM arrived: 143, after the step at work and a checkpoint. A later one ends it.
        BclsError: training failed, or was killed too often.
    """
    try:
        if context.runtime.backend == "local":
            _fit_here(training, job)
            return
        from flows.fit_on_ray import fit_on_ray

        fit_on_ray(context, training, job)
    except StoppedError as error:
        log.warning("%s", error)
        raise SystemExit(StoppedError.exit_code) from error


def _fit_here(training: TrainingJob, job: Job) -> None:
    log_epoch = EpochLogger(job.client, job.run_id)
    with sigterm_noted() as noted, progress_bar("training epochs", total=training.settings.epochs + 1) as advance:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            log_epoch(epoch, metrics)
            advance(1)

        train(training, Workers(), on_epoch, noted.is_set)
