"""Which images are of one kind, as a detector of objects sees them: for image-to-image retrieval."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

SURE = 0.5


def write_image_groups(regions: Path, image_ids: Iterable[str], path: Path) -> None:
    """Writes a CSV for `evaluate.image_groups`: images are of one group where the same classes were found in them.

    An image in which nothing was found is in a group of its own, which no image is asked for.

    Args:
        regions: an .npz with `image_id`, and per region of it `label` (the detector's class) and `score`; its first
            region is the whole image.
    """
    with np.load(regions) as found:
        seen = {
            str(image_id): sorted({int(label) for label in labels[1:][scores[1:] >= SURE]})
            for image_id, labels, scores in zip(found["image_id"], found["label"], found["score"], strict=True)
        }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "group"])
        for image_id in image_ids:
            writer.writerow([image_id, " ".join(map(str, seen[image_id])) or f"nothing in {image_id}"])
