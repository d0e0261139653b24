"""Results that the documents quote: one JSON file each, with what is needed to measure them again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parents[2]


def commit() -> str:
    """The commit that runs, and whether the code differs from it."""
    changed = git("status", "--porcelain", "-uno", "--", "bcls_core", "flows")
    return git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def write(name: str, command: str, figures: dict[str, Any], at: str | None = None) -> Path:
    """Write `results/NAME.json`: the figures, and the commit (the one that runs if None), command and machine they come
    from."""
    RESULTS.mkdir(exist_ok=True)
    record = figures | {
        "command": command,
        "commit": at or commit(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return path


def read(name: str) -> dict[str, Any]:
    """What `write` wrote last."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()
