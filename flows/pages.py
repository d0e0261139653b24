"""HTML files that commands leave where they are told to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bcls_core.errors import ConfigError


def check_page(path: Path | None) -> None:
    """A page can be written there, as far as that can be known before.

    Raises:
        ConfigError: it is a folder, or its folder does not exist.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ConfigError(f"--html {path}: not a file in a folder that exists. Name a file to be written.")


def write_page(path: Path, text: str) -> None:
    """The whole page or the old one, never half of it."""
    with tempfile.NamedTemporaryFile("w", dir=path.absolute().parent, delete=False, encoding="utf-8") as file:
        written = Path(file.name)
        try:
            file.write(text)
            file.close()
            written.chmod(0o644)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
