"""Models of `transformers`: with weights from a folder, or at random from a configuration; no network is touched."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import MODEL_MAPPING, AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from bcls_core.errors import ModelError

Side = Literal["image", "text"]

_UNRELATED_KEYS = (
    "_name_or_path",
    "architectures",
    "dtype",
    "finetuning_task",
    "id2label",
    "label2id",
    "problem_type",
    "torch_dtype",
    "transformers_version",
)
"""Of a configuration: where it came from, its precision on disk, and a classifier that a tower does not have."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the load report and progress bars of `transformers` inside the block, and only there."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_config(folder: Path, side: Side) -> Any:
    """The configuration in `folder`; of a dual encoder such as CLIP or SigLIP, that of the side asked for.

    Raises:
        ModelError: there is no config.json, its type is unknown, or it describes an encoder with a decoder.
    """
    config = _read_config(folder)
    part = getattr(config, "vision_config" if side == "image" else "text_config", None)
    config = config if part is None else part
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{folder}: a {config.model_type} has an encoder and a decoder.\n  Name an encoder as the {side} tower."
        )
    return config


def load_dual_config(folder: Path) -> Any:
    """The configuration in `folder`, of a dual encoder.

    Raises:
        ModelError: there is no config.json, its type is unknown, or it is not of a dual encoder.
    """
    config = _read_config(folder)
    require_dual(config, str(folder))
    return config


def require_dual(config: Any, where: str) -> None:
    """Raises ModelError where a configuration is not of a dual encoder."""
    if lacking := [part for part in ("vision_config", "text_config") if getattr(config, part, None) is None]:
        raise ModelError(
            f"{where}: a {config.model_type} is no dual encoder, it has no {' and no '.join(lacking)}.\n"
            "  Name a model such as CLIP or SigLIP, or use kind: two-tower, which takes a model a side."
        )


def _read_config(folder: Path) -> Any:
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ModelError(
            f"{folder}: config.json cannot be read as that of a model: {first_line(error)}\n"
            "  Name a folder saved by transformers or sentence-transformers; a model's own code is not run."
        ) from error


def load_pretrained(folder: Path, config: Any, *, pooler: bool) -> torch.nn.Module:
    """The model of `config` with the folder's safetensors weights, in float32.

    Args:
        pooler: keep the dense layer over [CLS] that models of BERT's kind put on top.
    Raises:
        ModelError: there are no safetensors, or they lack weights which the model needs.
    """
    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                str(folder),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **_pooler_option(config, pooler),
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: the weights cannot be loaded: {first_line(error)}\n"
            "  The folder must hold model.safetensors; pickled weights are not read: save them with save_pretrained."
        ) from error
    if lacking := sorted(set(report["missing_keys"]) | {str(key) for key in report["mismatched_keys"]}):
        raise ModelError(
            f"{folder}: model.safetensors lacks {len(lacking)} weights of a {config.model_type}, first {lacking[0]}.\n"
            "  Save the model again with its weights"
            + (
                ", or choose another pooling: this one's was never trained."
                if any("pooler" in key for key in lacking)
                else "."
            )
        )
    return cast(torch.nn.Module, model)


def make_config(settings: dict[str, Any], where: str) -> Any:
    """The `transformers` configuration of `settings` (`model_type` and whatever that type takes).

    Raises:
        ModelError: the type is unknown, a key is unknown to it, or a value has the wrong type, in the setting `where`.
    """
    model_type, values = settings["model_type"], {key: value for key, value in settings.items() if key != "model_type"}
    try:
        default = AutoConfig.for_model(model_type)
    except (ValueError, KeyError) as error:
        raise ModelError(
            f"{where}: transformers knows no model_type {model_type!r}.\n  It knows resnet, vit, bert, distilbert, ..."
        ) from error
    known = {*inspect.signature(type(default)).parameters, *type(default).attribute_map, *vars(default)} - {"kwargs"}
    for key in sorted(values.keys() - known):
        near = difflib.get_close_matches(key, sorted(known), n=1)
        raise ModelError(
            f"{where}: a {model_type} takes no {key!r}.\n  " + (f"Did you mean {near[0]!r}?" if near else "Remove it.")
        )
    try:
        return AutoConfig.for_model(model_type, **values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"{where}: {last_line(error)}\n  Correct the value.") from error


def build_model(config: Any, *, pooler: bool) -> torch.nn.Module:
    """The model of `config` in float32, its weights drawn from torch's random numbers.

    Raises:
        ModelError: there is no model without a head for this type, or its sizes do not fit each other.
    """
    try:
        with quiet_transformers():
            model = AutoModel.from_config(
                config, dtype=torch.float32, trust_remote_code=False, **_pooler_option(config, pooler)
            )
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
        raise ModelError(
            f"a {config.model_type} cannot be made from this configuration: {first_line(error)}\n  Correct its sizes."
        ) from error
    return cast(torch.nn.Module, model)


def describe_config(config: Any) -> dict[str, Any]:
    """JSON-able settings which `restore_config` turns into an equal configuration."""
    described: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return _without_unrelated(described) | {"model_type": config.model_type}


def restore_config(described: dict[str, Any]) -> Any:
    """The configuration that `describe_config` described.

    Raises:
        ModelError: the installed `transformers` does not know this type of model.
    """
    try:
        with quiet_transformers():
            return AutoConfig.for_model(**described)
    except (ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(
            f"a tower of type {described['model_type']!r} cannot be made again: {last_line(error)}\n"
            "  Install the version of transformers that constraints.txt names."
        ) from error


def _pooler_option(config: Any, pooler: bool) -> dict[str, bool]:
    model_class = MODEL_MAPPING.get(type(config), None)
    takes_it = isinstance(model_class, type) and "add_pooling_layer" in inspect.signature(model_class).parameters
    return {"add_pooling_layer": pooler} if takes_it else {}


def _without_unrelated(described: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_unrelated(value) if isinstance(value, dict) else value
        for key, value in sorted(described.items())
        if key not in _UNRELATED_KEYS
    }


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: Exception) -> str:
    """As `first_line`, where the cause is said last."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
