"""Where a model's files are: a folder, a model carried in an installed package, or a hub name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
from pathlib import Path

from bcls_core.errors import ModelError

PACKAGE_PREFIX = "package:"
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Weights, configurations, vocabularies: what determines a model's outputs (and no pickles)."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

_PACKAGE_NAME = re.compile(r"[A-Za-z][\w.-]*")


def resolve_model(name: str, revision: str | None = None) -> str:
    """The absolute folder that `name` means, or the hub name itself; touches no network.

    Args:
        name: a folder, `package:NAME` (an installed package that carries the model), or a hub name `owner/model`.
        revision: branch, tag or commit; only a hub name has revisions.
    Raises:
        ModelError: the package or the folder is missing, or a revision is asked of something that has none.
    """
    if name.startswith(PACKAGE_PREFIX):
        folder = _package_folder(name.removeprefix(PACKAGE_PREFIX))
    elif (path := Path(name).expanduser()).is_dir():
        folder = path.absolute()
    elif _HUB_NAME.fullmatch(name):
        return name
    else:
        raise ModelError(
            f"model {name!r}: no such folder (looked in {Path.cwd()}), and it is not a hub name (owner/model).\n"
            "  Correct the path, or name a model of a hub, or package:NAME."
        )
    if revision is not None:
        raise ModelError(f"model {name!r} is a local folder, which has no revision {revision!r}.\n  Remove `revision`.")
    return str(folder)


def fetch_model(name: str, revision: str | None = None) -> Path:
    """The local folder with the files of `name`; a hub model is downloaded into the hub's cache first.

    Raises:
        ModelError: as `resolve_model`, or the hub cannot be reached or does not know the model.
    """
    resolved = resolve_model(name, revision)
    if not _HUB_NAME.fullmatch(resolved):
        return Path(resolved)
    # Imported here: resolving a local folder should not cost the hub client's import.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(resolved, revision=revision, allow_patterns=list(MODEL_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision!r}" if revision else ""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model {name!r}{at}: there is no such folder, and the hub did not give it: {reason}\n"
            "  Check the spelling and the network, or name a local folder that holds the model."
        ) from error


def model_digest(folder: str | Path) -> dict[str, str]:
    """Path below `folder` -> sha256 (hex) of each file that determines the model: weights, configuration, vocabulary.

    Raises:
        ModelError: the folder holds none.
    """
    root = Path(folder)
    files = sorted(
        path
        for pattern in MODEL_FILES
        for path in root.rglob(pattern)
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not files:
        raise ModelError(
            f"{root}: holds no model file ({', '.join(MODEL_FILES)}).\n  Name the folder with config.json."
        )
    return {path.relative_to(root).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package_folder(package: str) -> Path:
    """The model's folder inside an installed package: `get_model_path()`, or else the folder with config.json."""
    module_name = package.replace("-", "_")
    if not _PACKAGE_NAME.fullmatch(package):
        raise ModelError(
            f"model {PACKAGE_PREFIX}{package}: {package!r} names no package.\n  Write the name that pip installs."
        )
    try:
        found = importlib.util.find_spec(module_name)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        raise ModelError(
            f"model {PACKAGE_PREFIX}{package}: no package {module_name!r} is installed.\n  pip install {package}"
        )
    module = importlib.import_module(module_name)
    if callable(locate := getattr(module, "get_model_path", None)):
        folders = [Path(locate())]
    else:
        roots = [Path(root) for root in found.submodule_search_locations or []]
        configs = (config for root in roots for config in root.rglob("config.json"))
        folders = sorted((config.parent for config in configs), key=lambda folder: (len(folder.parts), str(folder)))
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder.absolute()
    raise ModelError(
        f"model {PACKAGE_PREFIX}{package}: the package is installed, but no folder in it holds a config.json.\n"
        "  Install it again if it should carry a model, or name a folder."
    )
