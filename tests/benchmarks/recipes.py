"""What the shipped recipes reach, for the README: `python -m tests.benchmarks.recipes demo coco-mini`.

Runs each recipe under a fresh root and writes `tests/benchmarks/results/NAME.json`: metrics, time, commit, command and
machine. `tests/test_readme.py` compares the README with these files.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parents[2]


def main(recipes: list[str]) -> None:
    for recipe in recipes:
        with tempfile.TemporaryDirectory() as root:
            started = time.perf_counter()
            arguments = ["run", "-c", recipe, "--root", root, "--json"]
            done = subprocess.run(
                [sys.executable, "-m", "flows.cli", *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True
            )
            seconds = time.perf_counter() - started
        result = json.loads(done.stdout)
        RESULTS.mkdir(exist_ok=True)
        record = {
            "recipe": recipe,
            "command": f"bcls run -c {recipe}",
            "commit": git("rev-parse", "HEAD")
            + ("-dirty" if git("status", "--porcelain", "-uno", "--", "bcls_core", "flows") else ""),
            "seed": 0,
            "seconds": round(seconds),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "best_epoch": result["training"]["best_epoch"],
            "training_digest": result["training"]["content_digest"],
            "metrics": {name: round(value, 4) for name, value in sorted(result["evaluation"]["metrics"].items())},
        }
        (RESULTS / f"{recipe}.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
