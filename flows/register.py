"""A training's best model into the MLflow registry, once, and its alias through a gate."""

from __future__ import annotations

import logging
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import bcls_core
from bcls_core.config import RegistrySettings
from bcls_core.store import Artifact
from bcls_core.training.history import MODEL, read_history
from flows.context import Context
from flows.models import TRAINING_TAG
from flows.result import Result
from flows.tracking import Job

log = logging.getLogger(__name__)


# What the library code beside the model imports; the code itself travels with the model.
_NEEDED = (
    "fsspec",
    "jinja2",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "pydantic-settings",
    "pyyaml",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
_MODEL_CODE = Path(__file__).with_name("model_code.py")
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary", "image"), ColSpec("string", "caption")]),
    outputs=Schema([ColSpec("double", "score"), ColSpec("long", "rank")]),
)


def run(context: Context, settings: RegistrySettings, training: Artifact, job: Job) -> Result:
    """Logs and registers the model unless an earlier attempt did, then moves the alias if the gate lets it.

    Exit code 3 where the gate keeps the alias on the model it is on.
    """
    name = settings.model or context.name
    with context.store.lease("training", f"{training.version}-registration"):
        version = _registered_version(context, training, name, job)
    alias = settings.alias
    refusal = _gate(context, settings, training, name, version)
    if refusal is None:
        context.tracker.client.set_registered_model_alias(name, alias, version.version)
    facts: dict[str, Any] = {
        "model": name,
        "version": int(version.version),
        "uri": f"models:/{name}/{version.version}",
        "alias": f"models:/{name}@{alias}",
        "alias_moved": refusal is None,
    }
    if refusal is not None:
        return Result(refusal, facts, exit_code=3)
    return Result(f"models:/{name}@{alias} is version {version.version}", facts)


def _registered_version(context: Context, training: Artifact, name: str, job: Job) -> ModelVersion:
    client = context.tracker.client
    found = client.search_model_versions(f"name='{name}' and tags.`{TRAINING_TAG}`='{training.version}'")
    if found:
        return found[0]
    model_id = _logged_model(context, training, job)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        TRAINING_TAG: training.version,
        "bcls.content_digest": training.content_digest,
        "bcls.recipe": context.name,
        **{f"bcls.{kind}": version for kind, version in training.manifest.parents.items()},
    }
    return client.create_model_version(name, f"models:/{model_id}", job.run_id, tags=tags, model_id=model_id)


def _logged_model(context: Context, training: Artifact, job: Job) -> str:
    """The id of the MLflow model with this training's weights, logged now if no earlier attempt completed it."""
    found = context.tracker.client.search_logged_models(
        experiment_ids=[context.tracker.experiment_id()],
        filter_string=f"tags.`{TRAINING_TAG}` = '{training.version}'",
    )
    ready = [model for model in found if model.status == LoggedModelStatus.READY]
    for model in found:
        if model.status != LoggedModelStatus.READY:
            # Begun by an attempt that was killed; it would stay pending for ever.
            context.tracker.client.delete_logged_model(model.model_id)
    if ready:
        return str(ready[0].model_id)
    # MLflow advises type hints and an input example, which are for models without an explicit signature.
    with mlflow.start_run(run_id=job.run_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="mlflow")
        info = mlflow.pyfunc.log_model(
            name="student",
            python_model=str(_MODEL_CODE),
            artifacts={"student": str(training.local(MODEL))},
            signature=_SIGNATURE,
            code_paths=[str(Path(bcls_core.__file__).parent)],
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in _NEEDED],
            tags={TRAINING_TAG: training.version},
            step=read_history(training).best_epoch,
        )
    return str(info.model_id)


def _gate(
    context: Context, settings: RegistrySettings, training: Artifact, name: str, version: ModelVersion
) -> str | None:
    """Why the alias must not move, or None. Models of another corpus are not comparable and do not hold it back."""
    client = context.tracker.client
    try:
        holder = client.get_model_version_by_alias(name, settings.alias)
    except MlflowException as error:
        # MLflow says INVALID_PARAMETER_VALUE for an alias that is not set. Anything else must not open the gate.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    if holder.version == version.version or holder.tags.get("bcls.corpus") != training.manifest.parents["corpus"]:
        return None
    held = context.store.find("training", holder.tags[TRAINING_TAG])
    if held is None:
        return None
    old, new = read_history(held).best["val/rsum"], read_history(training).best["val/rsum"]
    if new >= old - settings.max_drop:
        return None
    return (
        f"gate: {settings.alias} stays on version {holder.version}: its val rsum is {old:.1f}, that of version "
        f"{version.version} {new:.1f}. To accept a drop set registry.max_drop."
    )
