"""One Ray session per process: the cluster that RAY_ADDRESS names, or a local one."""

from __future__ import annotations

import logging
import os
import signal
import threading

from bcls_core.errors import ConfigError

_QUIET = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_TRAIN_V2_ENABLED": "1"}

_jobs_begun: set[str] = set()  # Ray's ids of the sessions that ensure_ray began


def ensure_ray() -> None:
    """Connects to Ray once; later calls do nothing."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS", "local")
    local = address == "local"
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            include_dashboard=False if local else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:
        raise ConfigError(
            f"Ray at {address} cannot be reached: {error}\n  Check RAY_ADDRESS. If it speaks of an authentication "
            "token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as on the cluster's head (see cluster/README.md)."
        ) from error
    _jobs_begun.add(ray.get_runtime_context().get_job_id())
    # Ray installs a handler of its own, after which SIGTERM would end the process with another exit code than 143.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    import ray.data

    # The flows show their own progress, in pieces.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def renew_ray() -> None:
    """Ends the session that `ensure_ray` began, and with it whatever it holds on the cluster, and begins another.

    A session that somebody else began in this process is left as it is.
    """
    import ray

    if ray.is_initialized() and ray.get_runtime_context().get_job_id() in _jobs_begun:
        ray.shutdown()
    ensure_ray()


def require_resources(workers: int, *, cpus: float = 0.0, gpus: int = 0, at_once: int = 1) -> None:
    """Refuses what the cluster could never hold, which Ray would wait for without a word.

    Args:
        cpus, gpus: of each worker.
        at_once: how many times as many workers there are.
    Raises:
        ConfigError: naming the request and what there is.
    """
    import ray

    ensure_ray()
    there = ray.cluster_resources()
    for name, each in (("GPU", float(gpus)), ("CPU", cpus)):
        needed, times = workers * each * at_once, f", {at_once} at once," if at_once > 1 else ""
        if needed > there.get(name, 0.0):
            raise ConfigError(
                f"runtime.workers={workers}{times} needs {needed:g} {name}s, and the cluster has "
                f"{there.get(name, 0.0):g}. Set {'--at-once' if times else 'runtime.workers'} lower, or add nodes."
            )
