"""Recipes shipped with the package, found by name; anything else is a path."""

from __future__ import annotations

from pathlib import Path

from bcls_core.errors import ConfigError

_FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """Names that `-c NAME` accepts besides a path."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a recipe given as a path or as a shipped name.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    if name in shipped():
        return _FOLDER / f"{name}.yaml"
    raise ConfigError(
        f"-c {name}: no such file, and no shipped recipe of that name (there are: {', '.join(shipped())})."
    )
