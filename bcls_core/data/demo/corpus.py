"""The demo corpus as the tables of `bcls_core.data.schema`, any range of a split at a time.

A row depends only on the seed, the size and its place in its split (its caption ids also on the sizes of the splits
before), so shards can be made by any worker in any order.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bcls_core.config.ingest import DemoIngest
from bcls_core.data.demo.captions import CAPTIONS_PER_SCENE, tell
from bcls_core.data.demo.draw import draw, encode
from bcls_core.data.demo.relevance import relevance_from_facts, scene_facts
from bcls_core.data.demo.scenes import CAPTION_STREAM, DRAWING_STREAM, Scene, dice_of, make_scene
from bcls_core.data.schema import CAPTIONS, IMAGES, SPLITS
from bcls_core.errors import CorpusError

TRUTH = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("facts", pa.list_(pa.string()), nullable=False),
    ]
)
"""Table `truth` of a demo corpus, row-aligned with `images`: what evaluation computes the true relevance from."""


def split_size(settings: DemoIngest, split: str) -> int:
    """Images of a split.

    Raises:
        CorpusError: there is no such split.
    """
    sizes = {"train": settings.train, "val": settings.val, "test": settings.test}
    if split not in sizes:
        raise CorpusError(f"the demo corpus has no split {split!r}; its splits are {', '.join(SPLITS)}")
    return sizes[split]


def image_id(split: str, index: int) -> str:
    """Name of scene `index` of a split, such as "scene-train-000123"."""
    return f"scene-{split}-{index:06d}"


def demo_records(settings: DemoIngest, split: str, start: int, stop: int) -> tuple[pa.Table, pa.Table]:
    """Images `start` to `stop` (exclusive) of a split with their captions: tables of schemas `IMAGES` and `CAPTIONS`.

    Images are PNG, `settings.size` pixels square. Caption `k` of an image has the id `5 * n + k`, where `n` counts the
    images of the whole corpus in the order train, val, test.

    Raises:
        CorpusError: no such split, or the range is not inside it.
    """
    scenes = _scenes(settings, split, start, stop)
    first = sum(split_size(settings, name) for name in SPLITS[: SPLITS.index(split)])
    images: dict[str, list[object]] = {name: [] for name in IMAGES.names}
    captions: dict[str, list[object]] = {name: [] for name in CAPTIONS.names}
    for index, scene in scenes:
        name = image_id(split, index)
        data = encode(draw(scene, settings.size, dice_of(settings.seed, split, index, DRAWING_STREAM)))
        values = (name, split, data, settings.size, settings.size, sha256(data).hexdigest())
        for column, value in zip(images.values(), values, strict=True):
            column.append(value)
        for k, caption in enumerate(tell(scene, dice_of(settings.seed, split, index, CAPTION_STREAM))):
            values_of_caption = (CAPTIONS_PER_SCENE * (first + index) + k, name, split, caption)
            for column, value in zip(captions.values(), values_of_caption, strict=True):
                column.append(value)
    return pa.Table.from_pydict(images, schema=IMAGES), pa.Table.from_pydict(captions, schema=CAPTIONS)


def truth_records(settings: DemoIngest, split: str, start: int, stop: int) -> pa.Table:
    """The facts of images `start` to `stop` (exclusive) of a split, as a table of schema `TRUTH`.

    Raises:
        CorpusError: no such split, or the range is not inside it.
    """
    scenes = _scenes(settings, split, start, stop)
    names = [image_id(split, index) for index, _ in scenes]
    return pa.Table.from_pydict({"image_id": names, "facts": [scene_facts(s) for _, s in scenes]}, schema=TRUTH)


def true_relevance(settings: DemoIngest, split: str) -> NDArray[np.float32]:
    """(images, captions) true relevance of every image of a split to every caption of it, in the order of the tables.

    Raises:
        CorpusError: no such split.
    """
    facts = [scene_facts(scene) for _, scene in _scenes(settings, split, 0, split_size(settings, split))]
    return np.repeat(relevance_from_facts(facts, facts), CAPTIONS_PER_SCENE, axis=1)


def _scenes(settings: DemoIngest, split: str, start: int, stop: int) -> list[tuple[int, Scene]]:
    size = split_size(settings, split)
    if not 0 <= start <= stop <= size:
        raise CorpusError(f"images {start} to {stop} are not a range of demo split {split!r}, which has {size}")
    return [(index, make_scene(settings.seed, split, index)) for index in range(start, stop)]
