"""What soft labels of teachers change: `python -m tests.benchmarks.soft_labels [ROOT]`, about half an hour.

Trains the recipe `coco-mini-cusa` with InfoNCE alone, with soft labels across the sides (CSA), within them (USA), with
both, and with both from the label set's corpus-wide soft labels, with three seeds each; compares all by `bcls compare`
with InfoNCE alone, on the validation split and on the test split, and writes
`tests/benchmarks/results/soft_labels.json`. With a ROOT, what was trained there already is not trained again.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from tests.benchmarks import record
from tests.benchmarks.commands import bcls, rounded

SEEDS = (0, 1, 2)
ACROSS, WITHIN = "{loss: soft-label, weight: 12.8%s}", "{loss: soft-label, weight: 64, between: [%s]%s}"
SIDES = "image-image, caption-caption"
OBJECTIVES = {
    "InfoNCE": [],
    "CSA": [ACROSS % ""],
    "USA": [WITHIN % (SIDES, "")],
    "CSA and USA": [ACROSS % "", WITHIN % (SIDES, "")],
    "CSA and USA, corpus-wide": [ACROSS % ", labels: corpus", WITHIN % (SIDES, ", labels: corpus")],
}


def main(root: str) -> None:
    versions: dict[str, list[str]] = {}
    for name, terms in OBJECTIVES.items():
        objective = f"train.objective=[{', '.join(['{loss: info-nce}', *terms])}]"
        for seed in SEEDS:
            settings = ("--set", objective, "--set", f"train.seed={seed}")
            found = bcls("run", root, "-c", "coco-mini-cusa", *settings)
            versions.setdefault(name, []).append(found["training"]["version"])
    splits: dict[str, Any] = {}
    for split in ("val", "test"):
        splits[split] = {}
        for name in [name for name in OBJECTIVES if name != "InfoNCE"]:
            compared = bcls("compare", root, *versions["InfoNCE"], *versions[name], "--split", split)
            alone, other = (group["metrics"] for group in compared["groups"])
            splits[split]["InfoNCE"] = alone
            splits[split][name] = {"metrics": other, "differences": compared["differences"][0]["metrics"]}
    record.write(
        "soft_labels", "python -m tests.benchmarks.soft_labels", rounded({"seeds": list(SEEDS), "splits": splits})
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
