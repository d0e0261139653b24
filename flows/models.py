"""From what a user calls a model to the training it came from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bcls_core.errors import InputError, UnknownArtifactError
from bcls_core.store import Artifact
from flows.context import Context

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

TRAINING_TAG = "bcls.training"

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def find_training(context: Context, model: str) -> Artifact:
    """The training behind `models:/NAME@alias`, `models:/NAME/VERSION`, or a training version itself.

    Raises:
        UnknownArtifactError: the registry or the store has no such model.
    """
    if not model.startswith("models:/"):
        return context.store.resolve("training", model)
    version = _model_version(context, model)
    if TRAINING_TAG not in version.tags:
        raise InputError(
            f"{model}: version {version.version} was not registered by this project (no tag {TRAINING_TAG})."
        )
    return context.store.resolve("training", version.tags[TRAINING_TAG])


def find_compared(context: Context, run: str) -> Artifact:
    """The training behind whatever `find_training` takes, or behind an MLflow run of the flows train or evaluate.

    Raises:
        UnknownArtifactError: there is no such model, training or run.
        InputError: the run is of another flow.
    """
    if not _RUN_ID.fullmatch(run):
        return find_training(context, run)
    from mlflow.exceptions import MlflowException

    _need_registry(context, run)
    try:
        found = context.tracker.client.get_run(run)
    except MlflowException as error:
        raise UnknownArtifactError(
            f"{run}: no such run at {context.tracker.shown_uri}. Name a run of `bcls train` or `bcls evaluate`, "
            "or another root or tracking server."
        ) from error
    flow = found.data.tags.get("flow")
    version = found.data.tags.get("bcls.version") if flow == "train" else found.data.params.get("training")
    if flow not in ("train", "evaluate") or version is None:
        raise InputError(f"{run}: a run of flow {flow!r}. Name a finished run of `bcls train` or `bcls evaluate`.")
    return context.store.resolve("training", version)


def _need_registry(context: Context, what: str) -> None:
    if context.tracking_is_local and not Path(context.root, "mlflow.db").is_file():
        raise UnknownArtifactError(
            f"{what}: there is no registry under {context.root}. Name the root of the run: --root DIR"
        )


def _model_version(context: Context, uri: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    _need_registry(context, uri)
    client = context.tracker.client
    name, at, alias = uri.removeprefix("models:/").partition("@")
    try:
        if at:
            return client.get_model_version_by_alias(name, alias)
        name, _, number = name.partition("/")
        return client.get_model_version(name, number)
    except MlflowException as error:
        known = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        raise UnknownArtifactError(
            f"{uri}: not in the registry at {context.tracker.shown_uri} (registered models: {known}). "
            "Train one with `bcls run -c RECIPE`, or name another root or tracking server."
        ) from error
