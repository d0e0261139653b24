"""What surrounds every flow: the store under a root, the tracking server, and how the inner work is run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bcls_core.config import RuntimeSettings
from bcls_core.errors import ConfigError

if TYPE_CHECKING:
    from bcls_core.store import Store
    from flows.backend import Backend
    from flows.tracking import Tracker

# Ray's job supervisor sets this in every driver it starts.
_RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Context:
    """One flow's surroundings; what is expensive to make is made when first asked for.

    Attributes:
        name: the recipe's name: MLflow's experiment, and the lineage that publications belong to.
        root: absolute path or URL of all artefacts.
        at_once: how many such flows share the machines.
    """

    name: str
    runtime: RuntimeSettings
    root: str
    at_once: int = 1

    @property
    def tracking_is_local(self) -> bool:
        """Whether runs and models are kept in a file under the root."""
        return not (self.runtime.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI"))

    @cached_property
    def store(self) -> Store:
        from bcls_core.store import Store

        return Store(self.root)

    @cached_property
    def tracker(self) -> Tracker:
        from flows.tracking import Tracker

        return Tracker(self.name, self.runtime, self.root)

    @cached_property
    def backend(self) -> Backend:
        from flows.backend import LocalBackend, RayBackend

        return LocalBackend() if self.runtime.backend == "local" else RayBackend(self.runtime.workers)

    @cached_property
    def device(self) -> str:
        """Where towers run: what is asked for; for `auto` the GPUs of whoever does the work, if there are any."""
        if self.runtime.device != "auto":
            return self.runtime.device
        return "cuda" if self.backend.has_gpu() else "cpu"


def absolute_root(root: str) -> str:
    """The root as an absolute path or a URL.

    Raises:
        ConfigError: relative inside a Ray job, where it would name a folder of the job's temporary upload.
    """
    if "://" in root:
        return root
    path = Path(root).expanduser()
    if not path.is_absolute() and _RAY_JOB_VARIABLE in os.environ:
        raise ConfigError(
            f"root {root!r} is relative, and a Ray job runs in a temporary copy of the working directory. "
            "Give an absolute path or a URL that all nodes see: --root /shared/bcls-data"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"root {root!r} is a file. Name a folder, which is made if it does not exist.")
    return str(path.absolute())
