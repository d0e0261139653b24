"""One Ray session per process: the cluster that RAY_ADDRESS names, or a local one."""

from __future__ import annotations

import logging
import os

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_TRAIN_V2_ENABLED": "1"}


def ensure_ray() -> None:
    """Connects to Ray once; later calls do nothing."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    local = address == "local"
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address=address,
        include_dashboard=False if local else None,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    import ray.data

    # The flows show their own progress, in pieces.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
