"""What the shipped recipes reach, for the README: `python -m tests.benchmarks.recipes demo coco-mini`.

Runs each recipe under a fresh root and writes `tests/benchmarks/results/NAME.json`: metrics, time, commit, command and
machine. `tests/test_readme.py` compares the README with these files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time

from tests.benchmarks import record


def main(recipes: list[str]) -> None:
    for recipe in recipes:
        with tempfile.TemporaryDirectory() as root:
            started = time.perf_counter()
            arguments = ["run", "-c", recipe, "--root", root, "--json"]
            done = subprocess.run(
                [sys.executable, "-m", "flows.cli", *arguments],
                cwd=record.REPOSITORY,
                stdout=subprocess.PIPE,
                check=True,
            )
            seconds = time.perf_counter() - started
        result = json.loads(done.stdout)
        figures = {
            "recipe": recipe,
            "seed": 0,
            "seconds": round(seconds),
            "best_epoch": result["training"]["best_epoch"],
            "training_digest": result["training"]["content_digest"],
            "metrics": {name: round(value, 4) for name, value in sorted(result["evaluation"]["metrics"].items())},
            "intervals": {
                name: [round(bound, 4) for bound in bounds]
                for name, bounds in sorted(result["evaluation"]["intervals"].items())
            },
        }
        record.write(recipe, f"bcls run -c {recipe}", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
