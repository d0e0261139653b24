"""Commands that benchmarks give as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.benchmarks import record


def bcls(command: str, root: str, *arguments: str) -> Any:
    """What a command prints as JSON, its work done in plain processes under `root`."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", command, *arguments, "--local", "--root", root, "--json"],
        cwd=record.REPOSITORY,
        stdout=subprocess.PIPE,
        check=False,
    )
    # 3: a model that is no better than the champion is trained and evaluated, and not made the champion.
    if done.returncode not in (0, 3):
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def rounded(value: Any) -> Any:
    """Numbers in a tree of results to four digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
