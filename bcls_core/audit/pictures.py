"""Pictures of one split that another one holds, too: the same file, the same pixels, or the same picture saved anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bcls_core.audit.difference_hash import Hashes, as_hashes, difference_hash, nearest_hashes
from bcls_core.audit.digests import Digests, as_digests, digest, first_equal
from bcls_core.audit.likeness import Cells, cells_of, likeness
from bcls_core.data.pixels import load_rgb
from bcls_core.data.rows import CorpusRows
from bcls_core.data.schema import IMAGES_PER_ROW_GROUP

NEAR_BITS = 40
"""Bits of 256 in which the hashes of one picture may differ.

Of 501,501 pairs of COCO images none differs in fewer than 52; of copies saved as JPEG of quality 20 or at half the size
99 in 100 differ in at most 35.
"""

LEAST_LIKENESS = 0.9
"""Flat pictures share hashes without showing the same; copies saved anew correlate to 0.98 and more."""

_PROPOSED = 16  # nearest hashes that are looked at
_REMEMBERED = 1024  # pictures, 6 KiB each

Rows = NDArray[np.int64]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class PictureSigns:
    """What is kept of each picture of a split, 64 bytes.

    Attributes:
        files: of the encoded bytes.
        pixels: of the upright RGB pixels.
        hashes: difference hashes.
    """

    files: Digests
    pixels: Digests
    hashes: Hashes


@dataclass(frozen=True)
class PictureMatches:
    """Of each picture of one split what was found in the other, as row numbers; -1 for nothing.

    Attributes:
        files, pixels: the first equal one.
        near: the nearest hash within reach whose picture is alike; equal ones are near, too.
        bits: in which that hash differs.
    """

    files: Rows
    pixels: Rows
    near: Rows
    bits: NDArray[np.int32]


def sign_pictures(rows: CorpusRows, advance: Advance = lambda _: None) -> PictureSigns:
    """Reads every picture of a split once; holds one row group of them at a time."""
    digests: list[bytes] = []
    hashes: list[bytes] = []
    files = [
        bytes.fromhex(value)[:16]
        for shard in rows.shards
        for value in rows.corpus.read("images", shard, ["sha256"])["sha256"].to_pylist()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, rows.image_count, IMAGES_PER_ROW_GROUP):
            batch = rows.images(np.arange(start, min(start + IMAGES_PER_ROW_GROUP, rows.image_count)))
            for of_pixels, of_picture in pool.map(_sign, batch):
                digests.append(of_pixels)
                hashes.append(of_picture)
            advance(len(batch))
    return PictureSigns(as_digests(files), as_digests(digests), as_hashes(hashes))


def match_pictures(
    queries: CorpusRows,
    query_signs: PictureSigns,
    rows: CorpusRows,
    row_signs: PictureSigns,
    *,
    within: int = NEAR_BITS,
) -> PictureMatches:
    """Looks for each picture of `queries` among those of `rows`.

    The hash search is exact; of the 16 nearest hashes within reach the first whose picture is alike is the match.
    """
    files = first_equal(query_signs.files, row_signs.files)
    pixels = first_equal(query_signs.pixels, row_signs.pixels)
    distances, proposed = nearest_hashes(query_signs.hashes, row_signs.hashes, within=within, k=_PROPOSED)
    known = np.where(files >= 0, files, pixels)
    near = known.copy()
    bits = np.where(known >= 0, 0, -1).astype(np.int32)
    remembered = lru_cache(maxsize=_REMEMBERED)(lambda row: _cells(rows, row))
    for query in np.flatnonzero((known < 0) & (proposed[:, 0] >= 0)).tolist():
        mine = _cells(queries, query)
        for distance, row in zip(distances[query].tolist(), proposed[query].tolist(), strict=True):
            if row >= 0 and likeness(mine, remembered(row)) >= LEAST_LIKENESS:
                near[query], bits[query] = row, distance
                break
    return PictureMatches(files, pixels, near, bits)


def _sign(data: bytes) -> tuple[bytes, bytes]:
    picture = load_rgb(data)
    size = f"{picture.width}x{picture.height}:".encode()
    return digest(size + picture.tobytes()), difference_hash(picture)


def _cells(rows: CorpusRows, row: int) -> Cells:
    return cells_of(load_rgb(rows.images([row])[0]))
