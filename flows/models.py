"""From what a user calls a model to the training it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bcls_core.errors import InputError, UnknownArtifactError
from bcls_core.store import Artifact
from flows.context import Context

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

TRAINING_TAG = "bcls.training"


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


def _model_version(context: Context, uri: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    if context.tracking_is_local and not Path(context.root, "mlflow.db").is_file():
        raise UnknownArtifactError(
            f"{uri}: there is no registry under {context.root}. Name the root of the run: --root DIR"
        )
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
