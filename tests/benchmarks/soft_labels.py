"""What soft labels of teachers change: `python -m tests.benchmarks.soft_labels [ROOT]`.

Compares by `bcls bench methods` InfoNCE alone with soft labels across the sides beside it (CSA), within them (USA),
and both, three seeds each: on the recipe `coco-mini-cusa`, also with the label set's corpus-wide soft labels, on its
val and test splits, and on `flickr8k-methods`, on its test split. On val, corpus-wide soft labels of two temperatures
are compared with those of the batch. All four directions of retrieval: images are of one kind where a detector finds
the same classes of objects.
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


CORPUS_WIDE_METHODS = (
    "methods={CSA and USA: {objective: [{preset: cusa-released}]}, CSA and USA corpus-wide: {objective: [{loss: "
    "info-nce}, {loss: soft-label, weight: 12.8, labels: corpus}, {loss: soft-label, weight: 64, labels: corpus, "
    "between: [image-image, caption-caption]}]}}"
)
TEMPERATURES = (1.0, 0.05)  # that of the batch's soft labels, and what a label set has unless told otherwise


def main(root: str) -> None:
    Path(root).mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    for recipe, data, splits, settings in (
        ("coco-mini-cusa", "coco_mini", ("val", "test"), []),
        ("flickr8k-methods", "flickr8k_3k", ("test",), [FLICKR_METHODS]),
    ):
        for split in splits:
            groups = image_groups(data, split, Path(root))
            found = bench(root, recipe, split, groups, *settings)
            methods = {
                name: {kind: of_kind(values) for kind, values in method.items()}
                for name, method in found["methods"].items()
            }
            figures.setdefault(recipe, {})[split] = {"methods": methods, "seeds": found["seeds"]}
    groups = image_groups("coco_mini", "val", Path(root))
    less_batch = {
        str(temperature): corpus_wide_less_batch(
            root, groups, CORPUS_WIDE_METHODS, f"label.soft_labels.temperature={temperature}"
        )
        for temperature in TEMPERATURES
    }
    figures["coco-mini-cusa"]["val"]["corpus-wide less batch, by temperature"] = less_batch
    record.write("soft_labels", "python -m tests.benchmarks.soft_labels", rounded({"recipes": figures}))


def bench(root: str, recipe: str, split: str, groups: Path, *settings: str) -> Any:
    """What `bcls bench methods` says of three seeds."""
    chosen = (f"evaluate.split={split}", f"evaluate.image_groups={groups}", *settings)
    options = [part for setting in chosen for part in ("--set", setting)]
    return bcls("bench", root, "methods", "-c", recipe, "--at-once", "2", *options)


def corpus_wide_less_batch(root: str, groups: Path, *settings: str) -> dict[str, Any]:
    """Differences on val between soft labels of the whole corpus and of the batch."""
    found = bench(root, "coco-mini-cusa", "val", groups, *settings)
    pair = [run["training"] for name in (BATCH, CORPUS_WIDE) for run in found["runs"] if run["method"] == name]
    compared = bcls("compare", root, *pair, "--split", "val", "--image-groups", str(groups))
    return of_kind(compared["differences"][0]["metrics"])


def image_groups(name: str, split: str, folder: Path) -> Path:
    """A file of groups of a dataset's images."""
    data = Path(os.path.expandvars("${BCLS_DATA}/data"), name)
    images = json.loads((data / "annotations.json").read_text())["images"]
    path = folder / f"groups-{name}-{split}.csv"
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
