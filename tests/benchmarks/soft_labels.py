"""What soft labels of teachers change: `python -m tests.benchmarks.soft_labels [ROOT]`.

Compares by `bcls bench methods` InfoNCE alone with soft labels across the sides beside it (CSA), within them (USA),
and both, three seeds each: on the recipe `coco-mini-cusa`, also with the label set's corpus-wide soft labels, on its
val and test splits, where these are also compared with those of the batch, and on `flickr8k-methods`, on its test
split. All four directions of retrieval: images are of one kind where a detector finds the same classes of objects.
Writes `tests/benchmarks/results/soft_labels.json`. With a ROOT, what was trained there already is not trained again.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import record
from tests.benchmarks.commands import bcls, rounded
from tests.benchmarks.image_groups import write_image_groups

_KEPT = r"rsum|(i2t|t2i|i2i|c2c)/r\d+|label/.*/kendall|human/.*/spearman"
BATCH, CORPUS_WIDE = "CSA and USA", "CSA and USA corpus-wide"
FLICKR_METHODS = (
    "methods={InfoNCE: {objective: [{loss: info-nce}]}, CSA: {objective: [{loss: info-nce}, {loss: soft-label, "
    "weight: 12.8}]}, USA: {objective: [{loss: info-nce}, {loss: soft-label, weight: 64, between: [image-image, "
    "caption-caption]}]}, CUSA: {objective: [{preset: cusa-released}]}}"
)


def main(root: str) -> None:
    Path(root).mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    for recipe, data, splits, settings in (
        ("coco-mini-cusa", "coco_mini", ("val", "test"), []),
        ("flickr8k-methods", "flickr8k_3k", ("test",), ["--set", FLICKR_METHODS]),
    ):
        for split in splits:
            groups = image_groups(Path(os.path.expandvars("${BCLS_DATA}/data"), data), split, Path(root))
            chosen = ["--set", f"evaluate.split={split}", "--set", f"evaluate.image_groups={groups}", *settings]
            found = bcls("bench", root, "methods", "-c", recipe, "--at-once", "2", *chosen)
            methods = {
                name: {kind: of_kind(values) for kind, values in method.items()}
                for name, method in found["methods"].items()
            }
            figures.setdefault(recipe, {})[split] = {"methods": methods, "seeds": found["seeds"]}
            if CORPUS_WIDE in methods:
                pair = [
                    run["training"] for name in (BATCH, CORPUS_WIDE) for run in found["runs"] if run["method"] == name
                ]
                compared = bcls("compare", root, *pair, "--split", split, "--image-groups", str(groups))
                figures[recipe][split]["corpus-wide less batch"] = of_kind(compared["differences"][0]["metrics"])
    record.write("soft_labels", "python -m tests.benchmarks.soft_labels", rounded({"recipes": figures}))


def image_groups(data: Path, split: str, folder: Path) -> Path:
    """A file of groups of a dataset's images."""
    images = json.loads((data / "annotations.json").read_text())["images"]
    path = folder / f"groups-{data.name}-{split}.csv"
    write_image_groups(
        data / "regions_mobilenet_v2.npz", [image["filename"] for image in images if image["split"] == split], path
    )
    return path


def of_kind(metrics: dict[str, Any]) -> dict[str, Any]:
    """Those that the documents quote."""
    return {name: value for name, value in metrics.items() if re.fullmatch(_KEPT, name)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as made:
            main(made)
