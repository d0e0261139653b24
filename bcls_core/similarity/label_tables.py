"""Arrow tables of a label set: representations and neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.row_book import COUNTED_TFIDF, EMBEDDINGS
from bcls_core.similarity.tfidf import SparseRows

TFIDF_SCHEMA = pa.schema(
    [
        pa.field("caption_id", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("ngrams", pa.list_(pa.int32()), nullable=False),
        pa.field("weights", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Table `caption_tfidf/MEASURE`: CIDEr's rows; the weights are multiples of 2^-24."""

COUNTED_TFIDF_SCHEMA = pa.schema(
    [
        pa.field("caption_id", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("ngrams", pa.list_(pa.int32()), nullable=False),
        pa.field("counts", pa.list_(pa.int32()), nullable=False),
        pa.field("weights", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Table `caption_counted_tfidf/MEASURE`: CIDEr-D's rows. Weights as CIDEr's; how often each n-gram occurs; tokens."""

NEIGHBOURS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("ids", pa.list_(pa.int64()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
    ]
)
"""`kind` says what `id` and `ids` are: "caption". Scores descend; equal scores by ascending id."""


def embeddings_schema(dimension: int) -> pa.Schema:
    """Table `caption_embeddings/MEASURE`: fp16 rows of unit length."""
    return pa.schema(
        [
            pa.field("caption_id", pa.int64(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), dimension), nullable=False),
        ]
    )


def image_embeddings_schema(dimension: int) -> pa.Schema:
    """Table `image_embeddings/TEACHER`, row-aligned with the corpus's `images`: fp16 rows of unit length."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), dimension), nullable=False),
        ]
    )


def image_embeddings_table(image_ids: Any, splits: Any, rows: NDArray[np.float16]) -> pa.Table:
    """Rows of `image_embeddings/TEACHER`.

    Args:
        image_ids, splits: Arrow columns, one entry a row.
        rows: (images, dimension).
    """
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table([image_ids, splits, values], schema=image_embeddings_schema(rows.shape[1]))


def image_regions_table(image_ids: Any, splits: Any, regions: NDArray[np.float16]) -> pa.Table:
    """Rows of `image_regions/TEACHER`, row-aligned with the corpus's `images`: lists of the rows of the teacher's last
    map, which are lists of its cells' fp16 vectors of unit length.

    Args:
        image_ids, splits: Arrow columns, one entry a row.
        regions: (images, height, width, channels).
    """
    values: pa.Array = pa.array(regions.ravel())
    kind: pa.DataType = pa.float16()
    for size in reversed(regions.shape[1:]):
        values, kind = pa.FixedSizeListArray.from_arrays(values, size), pa.list_(kind, size)
    schema = pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("regions", kind, nullable=False),
        ]
    )
    return pa.table([image_ids, splits, values], schema=schema)


IMAGE_NEIGHBOURS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("ids", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Table `image_neighbours/TEACHER`: scores descend; equal scores in the corpus's order."""

IMAGE_SOFT_LABELS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("ids", pa.list_(pa.string()), nullable=False),
        pa.field("probs", pa.list_(pa.float32()), nullable=False),
        pa.field("tail_mass", pa.float32(), nullable=False),
    ]
)
"""Table `image_soft_labels/TEACHER`: `ids` begins with the image itself; `probs` and `tail_mass` add up to 1."""


def representations_table(kind: str, caption_ids: Any, splits: Any, rows: Any) -> pa.Table:
    """Rows of `caption_embeddings/MEASURE`, `caption_tfidf/MEASURE` or `caption_counted_tfidf/MEASURE`.

    Args:
        kind: `caption_embeddings`, `caption_tfidf` or `caption_counted_tfidf`.
        caption_ids, splits: Arrow columns, one entry a row.
        rows: (captions, dimension) fp16 array, CSR array, or `CountedRows`.
    """
    if kind == EMBEDDINGS:
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        return pa.table([caption_ids, splits, values], schema=embeddings_schema(rows.shape[1]))
    if kind == COUNTED_TFIDF:
        lists = [*_lists(rows.counts), *_lists(rows.weights)[1:]]
        return pa.table([caption_ids, splits, pa.array(rows.lengths), *lists], schema=COUNTED_TFIDF_SCHEMA)
    return pa.table([caption_ids, splits, *_lists(rows)], schema=TFIDF_SCHEMA)


def _lists(rows: SparseRows) -> list[pa.ListArray]:
    """Columns and values of each row."""
    starts = pa.array(rows.indptr.astype(np.int32))
    ngrams = pa.ListArray.from_arrays(starts, pa.array(rows.indices.astype(np.int32)))
    return [ngrams, pa.ListArray.from_arrays(starts, pa.array(rows.data))]


def neighbours_table(measure: str, caption_ids: IntArray, neighbours: IntArray, scores: FloatArray) -> pa.Table:
    """Rows of `neighbours/MEASURE`; an id of -1 ends a list early.

    Args:
        caption_ids: (captions,) whose neighbours these are.
        neighbours, scores: (captions, k).
    """
    return pa.table(
        [*of_captions(measure, caption_ids), *list_columns(neighbours >= 0, neighbours, scores)],
        schema=NEIGHBOURS_SCHEMA,
    )


def of_captions(measure: str, caption_ids: IntArray) -> list[pa.Array]:
    """The columns `kind`, `measure` and `id` of a table about captions."""
    count = len(caption_ids)
    return [
        pa.array(["caption"] * count, type=pa.string()),
        pa.array([measure] * count, type=pa.string()),
        pa.array(caption_ids),
    ]


def list_columns(there: NDArray[np.bool_], *values: NDArray[Any]) -> list[pa.ListArray]:
    """Of (rows, places) arrays the places that are there, as a list for each row."""
    starts = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32))
    return [pa.ListArray.from_arrays(starts, pa.array(of_all[there])) for of_all in values]
