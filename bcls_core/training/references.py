"""What a model is judged by beside its corpus: ratings by people, classes of images, the ground truth of COCO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bcls_core.config import EvaluateSettings
from bcls_core.data.ratings import CaptionPairs, Ratings, read_caption_pairs, read_ratings
from bcls_core.data.text_table import columns_of, read_text
from bcls_core.errors import InputError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth

_GROUPS = (("image_id", "group"),)


@dataclass(frozen=True)
class References:
    """Read once, by whoever starts an evaluation; picklable.

    Attributes:
        ratings: image-caption ratings.
        caption_pairs: caption-caption ratings.
        image_groups: class of each image by image id, for image-to-image retrieval; None without.
        coco: ground truth of the COCO 5K test, CxC and ECCV Caption; None where the gallery is another.
        digests: sha256 by kind and name of everything here, which determines results.
    """

    ratings: Sequence[Ratings] = ()
    caption_pairs: Sequence[CaptionPairs] = ()
    image_groups: Mapping[str, str] | None = None
    coco: CocoGroundTruth | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, settings: EvaluateSettings) -> References:
        """Reads the files that the settings name.

        Raises:
            InputError: a file cannot be read or used (names file and line), or two sets of ratings have one name.
        """
        ratings = [read_ratings(path) for path in settings.ratings]
        pairs = [read_caption_pairs(path) for path in settings.caption_ratings]
        digests: dict[str, str] = {}
        for kind, sets in (("ratings", ratings), ("caption_ratings", pairs)):
            for given in sets:
                if f"{kind}/{given.name}" in digests:
                    raise InputError(f"{kind}: two files give the name {given.name!r}. Rename one, or leave it out.")
                digests[f"{kind}/{given.name}"] = given.sha256
        groups = None
        if settings.image_groups is not None:
            groups, digests["image_groups"] = read_image_groups(settings.image_groups)
        coco = None
        if settings.coco is not None:
            coco = CocoGroundTruth.load(None if settings.coco == "package" else Path(settings.coco))
            digests["coco"] = coco.sha256
        return cls(ratings, pairs, groups, coco, digests)


def read_image_groups(path: Path) -> tuple[dict[str, str], str]:
    """Class of each image by image id, from a CSV with the columns `image_id` and `group`, and the file's sha256.

    Raises:
        InputError: the file cannot be read, lacks a column or a value, or names an image twice. Names file and line.
    """
    text, digest = read_text(path)
    groups: dict[str, str] = {}
    for line, cells in columns_of(text, path, ",", _GROUPS):
        image_id, group = (cell.strip() for cell in cells)
        if not image_id or not group:
            raise InputError(f"{path}: line {line}: image_id or group is empty. Fill it in, or leave the row out.")
        if image_id in groups:
            raise InputError(f"{path}: line {line}: image {image_id!r} is there twice. Give each image one group.")
        groups[image_id] = group
    if not groups:
        raise InputError(f"{path}: a header and no image. Add rows, or leave the file out.")
    return groups, digest
