"""The captions of one split in order of their ids: gathered once, then mapped by every process of the machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bcls_core.errors import ShapeError, StoreError
from bcls_core.similarity.cosine import StoredRows
from bcls_core.similarity.incremental_lists import check_ascending
from bcls_core.similarity.measure import Groups, IntArray
from bcls_core.store.scratch import Scratch

_IDS, _IMAGES, _ROWS = "ids.npy", "images.npy", "rows.npy"


@dataclass(frozen=True, eq=False)
class SplitRows:
    """The captions of one split, as one measure compares them.

    Attributes:
        ids: (captions,) int64, ascending.
        images: (captions,) image of each caption, numbers or names; captions of one image do not find each other.
        rows: stored rows in the same order: (captions, dimension) fp16, perhaps mapped from disk, a CSR array, or
            `CountedRows`.
    Raises:
        ShapeError: ids do not ascend, or there are more or fewer images or rows than ids.
    """

    ids: IntArray
    images: Groups
    rows: Any

    def __post_init__(self) -> None:
        check_ascending(self.ids, "caption ids")
        if len(self.images) != len(self.ids) or self.rows.shape[0] != len(self.ids):
            raise ShapeError(
                f"found {len(self.ids)} caption ids, {len(self.images)} images and {self.rows.shape[0]} rows. "
                "Give an image and a row for each caption."
            )

    def __len__(self) -> int:
        return len(self.ids)


def gather_dense(
    scratch: Scratch, folder: str, ids: IntArray, images: IntArray, tables: Iterable[pa.Table]
) -> tuple[int, int]:
    """Writes the embeddings of a split to working files, one table in memory at a time.

    Args:
        folder: where, below the scratch.
        ids: (captions,) ascending.
        images: (captions,)
        tables: parts of `caption_embeddings/MEASURE`, in any order.
    Returns:
        Captions and dimension.
    Raises:
        StoreError: tables differ in width, or hold a caption twice or one that is not among `ids`, or lack one.
    """
    with tempfile.TemporaryDirectory(prefix="bcls-split-") as home:
        rows: StoredRows | None = None
        found = np.zeros(len(ids), dtype=np.bool_)
        for table in tables:
            column = table.column("embedding").combine_chunks()
            values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
            if rows is None:
                rows = _new(Path(home) / _ROWS, (len(ids), column.type.list_size))
            if column.type.list_size != rows.shape[1]:
                raise StoreError(
                    f"embeddings of {rows.shape[1]} and of {column.type.list_size} values stand in one table. "
                    "One model makes rows of one width: make the labels again, from an empty draft."
                )
            places = _places(ids, table.column("caption_id").to_numpy())
            if found[places].any() or len(np.unique(places)) != len(places):
                raise StoreError("a caption has two embeddings. Make the labels again.")
            found[places] = True
            rows[places] = values
        if not found.all() or rows is None:
            missing = int(ids[int(np.argmin(found))]) if len(ids) else -1
            raise StoreError(f"caption_id {missing} has no embedding. Make the labels again.")
        np.save(Path(home) / _IDS, ids)
        np.save(Path(home) / _IMAGES, images)
        rows.flush()  # type: ignore[attr-defined]
        scratch.add_tree(folder, Path(home))
        return rows.shape[0], rows.shape[1]


def open_dense(scratch: Scratch, folder: str) -> SplitRows:
    """What `gather_dense` wrote: mapped where it lies on a disk of this machine, else from a copy.

    Raises:
        StoreError: it was not written.
    """
    place = scratch.local(f"{folder}/{_ROWS}")
    if place is not None:
        if not place.exists():
            raise StoreError(f"{place} is missing: another process has committed or discarded the draft. Run again.")
        return _mapped(place.parent)
    with tempfile.TemporaryDirectory(prefix="bcls-split-") as home:
        scratch.copy_tree(folder, Path(home))
        return _mapped(Path(home))  # mapped files stay readable after their names are gone


def _mapped(folder: Path) -> SplitRows:
    ids, images = (np.load(folder / name) for name in (_IDS, _IMAGES))
    return SplitRows(ids, images, np.load(folder / _ROWS, mmap_mode="r"))


def _new(path: Path, shape: tuple[int, int]) -> StoredRows:
    rows: StoredRows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    return rows


def _places(ids: IntArray, wanted: NDArray[np.int64]) -> IntArray:
    places: IntArray = np.searchsorted(ids, wanted)
    inside = places < len(ids)
    if not inside.all() or (ids[places] != wanted).any():
        raise StoreError("an embedding belongs to a caption that the split does not hold. Make the labels again.")
    return places
