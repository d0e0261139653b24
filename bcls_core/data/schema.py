"""The tables of a corpus: columns, types, and how rows are laid out in shards.

A *shard* is one part of every table: `images/part-00007.parquet`, `captions/part-00007.parquet` and so on hold the same
images. A shard holds images of one split only. Inside it images keep the order of their source and captions follow the
order of their images, then their id, so row numbers of a shard mean the same thing to everyone who reads it.
"""

from __future__ import annotations

import pyarrow as pa

SPLITS: tuple[str, ...] = ("train", "val", "test")

SCHEMA = "corpus/1"
"""Name of this layout in the manifest; it changes when a column does."""

IMAGES_PER_ROW_GROUP = 64
"""Rows of a row group of `images` and `features`: what a random read of one image has to fetch and unpack."""

CAPTIONS_PER_ROW_GROUP = 4096

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.binary()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
    ]
)
"""`image`: encoded bytes (JPEG, PNG, ...), null in a corpus made from features only, and so are the three after it.

`width`, `height`: pixels of the upright picture (EXIF orientation applied). `sha256`: of the bytes in `image`, hex.
"""

CAPTIONS = pa.schema(
    [
        pa.field("caption_id", pa.int64(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
    ]
)

REJECTS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""`source`: "images" or "captions"; for each of them, input rows = accepted rows + rows here."""


def features_schema(dim: int) -> pa.Schema:
    """Table `features` with one vector of `dim` float16 values an image, row-aligned with `images`."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("features", pa.list_(pa.float16(), dim), nullable=False),
        ]
    )
