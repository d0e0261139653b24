"""The workers that make one shard of a corpus: every table's part, row-aligned, and a record of what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bcls_core.config import DemoIngest, KarpathyIngest
from bcls_core.data.demo import demo_records, truth_records
from bcls_core.data.features import FeatureFile, features_table
from bcls_core.data.images import inspect_image
from bcls_core.data.inputs import FileSum, Piece, Result, read_image
from bcls_core.data.rejects import CAPTIONS_SOURCE, IMAGES_SOURCE, Reason, Reject, rejects_table
from bcls_core.data.schema import CAPTIONS, CAPTIONS_PER_ROW_GROUP, IMAGES, IMAGES_PER_ROW_GROUP
from bcls_core.data.shard_file import ShardPlan, read_plan
from bcls_core.data.truth import TRUTH_TABLE
from bcls_core.store import Draft


@dataclass
class _Visual:
    """What became of the images of one shard.

    Attributes:
        rows: of the table `images`, for the accepted ones.
        reasons: by image id, for the others.
        read: the sum of the image files.
        features: (accepted, dim), in a corpus made from features.
    """

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    read: FileSum = field(default_factory=FileSum)
    features: NDArray[np.float16] | None = None


class IngestShard:
    """Piece worker: validates the images of a planned shard and writes its part of every table.

    A piece is `{"piece": ID, "part": NUMBER}` with the shard's plan in the draft's scratch (`PlanShards`). The result:
    `split`, accepted `images` and `captions`, `rejects` (source -> reason -> rows), and `sum`, the `FileSum` of what
    was read.
    """

    def __init__(self, settings: KarpathyIngest, draft: Draft) -> None:
        self._settings = settings
        self._draft = draft

    def __call__(self, piece: Piece) -> Result:
        part: int = piece["part"]
        plan = read_plan(self._draft, part)
        folder = self._settings.images
        visual = self._with_features(plan) if folder is None else self._with_images(folder, plan)
        accepted = [record for record in plan.records if record.image_id not in visual.reasons]
        images = _table(visual.rows, IMAGES)
        captions = _table(
            (
                (text.caption_id, image.image_id, plan.split, text.caption)
                for image in accepted
                for text in image.captions
            ),
            CAPTIONS,
        )
        if visual.features is not None:
            features = features_table([record.image_id for record in accepted], visual.features)
            self._draft.write_table("features", part, features, row_group_size=IMAGES_PER_ROW_GROUP)
        rejects = [*plan.rejects, *_rejects(plan, visual.reasons)]
        return _write(self._draft, part, plan.split, images, captions, rejects) | {"sum": visual.read.hex()}

    def _with_images(self, folder: Path, plan: ShardPlan) -> _Visual:
        visual, settings = _Visual(), self._settings
        for record in plan.records:
            content = read_image(folder, record, settings.max_pixels)
            visual.read.add(record.image_id, content)
            if not isinstance(content, Reason):
                found = inspect_image(content, max_pixels=settings.max_pixels, resize=settings.resize)
                if not isinstance(found, Reason):
                    row = (record.image_id, plan.split, found.data, found.width, found.height, found.sha256)
                    visual.rows.append(row)
                    continue
                content = found
            visual.reasons[record.image_id] = content
        return visual

    def _with_features(self, plan: ShardPlan) -> _Visual:
        features, reasons = self._feature_file.take([record.image_id for record in plan.records])
        accepted = [index for index, reason in enumerate(reasons) if reason is None]
        return _Visual(
            rows=[(plan.records[index].image_id, plan.split, None, None, None, None) for index in accepted],
            reasons={
                record.image_id: reason
                for record, reason in zip(plan.records, reasons, strict=True)
                if reason is not None
            },
            features=features[accepted],
        )

    @cached_property
    def _feature_file(self) -> FeatureFile:
        return FeatureFile(cast("Path", self._settings.features))  # settings have images or features


class DemoShard:
    """Piece worker: draws images "start" to "stop" of a demo split as shard "part", with their truth."""

    def __init__(self, settings: DemoIngest, draft: Draft) -> None:
        self._settings = settings
        self._draft = draft

    def __call__(self, piece: Piece) -> Result:
        part, place = piece["part"], (piece["split"], piece["start"], piece["stop"])
        truth = truth_records(self._settings, *place)
        self._draft.write_table(TRUTH_TABLE, part, truth, row_group_size=IMAGES_PER_ROW_GROUP)
        return _write(self._draft, part, piece["split"], *demo_records(self._settings, *place), [])


def _write(
    draft: Draft, part: int, split: str, images: pa.Table, captions: pa.Table, rejects: Sequence[Reject]
) -> Result:
    draft.write_table("images", part, images, row_group_size=IMAGES_PER_ROW_GROUP)
    draft.write_table("captions", part, captions, row_group_size=CAPTIONS_PER_ROW_GROUP)
    draft.write_table("rejects", part, rejects_table(rejects))
    by_source = {
        source: dict(sorted(Counter(reject.reason.value for reject in rejects if reject.source == source).items()))
        for source in (IMAGES_SOURCE, CAPTIONS_SOURCE)
    }
    return {"split": split, "images": images.num_rows, "captions": captions.num_rows, "rejects": by_source}


def _rejects(plan: ShardPlan, reasons: dict[str, Reason]) -> Iterable[Reject]:
    for record in plan.records:
        if record.image_id in reasons:
            yield Reject(IMAGES_SOURCE, record.image_id, reasons[record.image_id])
            for caption in record.captions:
                yield Reject(CAPTIONS_SOURCE, str(caption.caption_id), Reason.IMAGE_REJECTED)


def _table(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
