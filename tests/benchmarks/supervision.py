"""Does graded supervision help, and do people agree: `python -m tests.benchmarks.supervision`, some fifteen minutes.

Trains the recipe `flickr8k` on a third of its images, with its Kendall term and without it, with three seeds each,
compares the two groups by `bcls compare`, and writes `tests/benchmarks/results/supervision.json`.
"""

from __future__ import annotations

import os
import tempfile

from tests.benchmarks import record
from tests.benchmarks.commands import bcls, rounded

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
                found = bcls("run", root, "-c", "flickr8k", *(part for each in overrides for part in ("--set", each)))
                runs.append(found["training"]["version"])
        references = found["evaluation"]["metrics"]
        options = [part for path in _references() for part in path]
        compared = bcls("compare", root, *runs, *options)
    figures = {
        "groups": dict(zip(OBJECTIVES, (group["metrics"] for group in compared["groups"]), strict=True)),
        "differences": compared["differences"][0]["metrics"],
        "settings": compared["settings"],
        "seeds": list(SEEDS),
        "images": references["images"],
        "captions": references["captions"],
    }
    record.write("supervision", "python -m tests.benchmarks.supervision", rounded(figures))


def _references() -> list[tuple[str, str]]:
    from bcls_core.config import load_recipe
    from flows import recipes

    settings = load_recipe(recipes.find("flickr8k")).evaluate
    rated = [("--ratings", str(path)) for path in settings.ratings]
    return rated + [("--caption-ratings", str(path)) for path in settings.caption_ratings]


if __name__ == "__main__":
    main()
