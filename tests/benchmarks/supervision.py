"""Does graded supervision help, and do people agree: `python -m tests.benchmarks.supervision`, some fifteen minutes.

Trains the recipe `flickr8k` on a third of its images, with its Kendall term and without it, with three seeds each,
compares the two groups by `bcls compare`, and writes `tests/benchmarks/results/supervision.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from tests.benchmarks import record

SEEDS = (0, 1, 2)
SMALLER = "ingest.annotations=${BCLS_DATA}/data/flickr8k_3k/annotations.json"
OBJECTIVES = {
    "triplet": "train.objective=[{loss: triplet, mining: soft, margin: 0.2, tau: 0.1}]",
    "triplet and Kendall": None,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        runs = []
        for objective in OBJECTIVES.values():
            for seed in SEEDS:
                overrides = [os.path.expandvars(SMALLER), f"train.seed={seed}", *([objective] if objective else [])]
                found = _bcls("run", root, "-c", "flickr8k", *(part for each in overrides for part in ("--set", each)))
                runs.append(found["training"]["version"])
        references = found["evaluation"]["metrics"]
        options = [part for path in _references() for part in path]
        compared = _bcls("compare", root, *runs, *options)
    figures = {
        "groups": dict(zip(OBJECTIVES, (group["metrics"] for group in compared["groups"]), strict=True)),
        "differences": compared["differences"][0]["metrics"],
        "settings": compared["settings"],
        "seeds": list(SEEDS),
        "images": references["images"],
        "captions": references["captions"],
    }
    record.write("supervision", "python -m tests.benchmarks.supervision", _rounded(figures))


def _references() -> list[tuple[str, str]]:
    from bcls_core.config import load_recipe
    from flows import recipes

    settings = load_recipe(recipes.find("flickr8k")).evaluate
    rated = [("--ratings", str(path)) for path in settings.ratings]
    return rated + [("--caption-ratings", str(path)) for path in settings.caption_ratings]


def _bcls(command: str, root: str, *arguments: str) -> Any:
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


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
