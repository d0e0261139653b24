"""Epochs shown while they are trained: in the MLflow run, and as a progress bar."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bcls_core.store import Draft
from bcls_core.training.checkpoint import finished_epochs
from flows.progress import progress_bar
from flows.tracking import log_metrics

log = logging.getLogger(__name__)


class EpochLogger:
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


@contextmanager
def epochs_watched(draft: Draft, epochs: int) -> Iterator[None]:
    """A progress bar over the epochs that the workers say they finished."""
    stopped = threading.Event()
    with progress_bar("training epochs", total=epochs + 1) as advance:

        def watch() -> None:
            shown = 0
            while not stopped.wait(1.0):
                try:
                    finished = finished_epochs(draft)
                except Exception as error:  # a store that does not answer now may do so later
                    log.debug("how many epochs are finished is not known: %s", error)
                    continue
                advance(finished - shown)
                shown = finished

        watcher = threading.Thread(target=watch, name="training-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stopped.set()
            watcher.join()
