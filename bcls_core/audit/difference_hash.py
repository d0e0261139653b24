"""Difference hashes: 256 bits that a picture keeps when it is encoded or scaled anew, and the nearest of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcls_core.compiled import over_rows
from bcls_core.errors import ShapeError

Hashes = NDArray[np.uint64]
"""(pictures, 4)."""

BITS = 256
_SIDE = 16
_FEW = 64  # queries of a task
_STEPS = 4  # of 0.3 ns, that one pair takes


def difference_hash(picture: Image.Image) -> bytes:
    """32 bytes: for each of 16 x 16 places whether the grey picture gets lighter to the right of it."""
    small = picture.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.uint8)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def as_hashes(found: list[bytes]) -> Hashes:
    """(pictures, 4) from the 32 bytes of each."""
    hashes: Hashes = np.frombuffer(b"".join(found), dtype=np.uint64).reshape(-1, BITS // 64)
    return hashes


def nearest_hashes(
    queries: Hashes, rows: Hashes, *, within: int, k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k rows that differ from each query in the fewest bits, exact, if in no more than `within`.

    Returns:
        distances: (queries, k) ascending; -1 where fewer were found.
        places: (queries, k) row numbers, the lower one first where distances are equal; -1 likewise.
    Raises:
        ShapeError: k below 1, or widths disagree.
    """
    if k < 1 or queries.shape[1:] != rows.shape[1:]:
        raise ShapeError(
            f"found k={k}, hashes of shape {queries.shape} and {rows.shape}; k is at least 1, widths agree."
        )
    # Imported here: it loads the compiler.
    from bcls_core.audit.hamming_kernels import nearest

    distances = np.full((len(queries), k), -1, dtype=np.int32)
    places = np.full((len(queries), k), -1, dtype=np.int64)
    planes = np.ascontiguousarray(rows.T)

    def search(part: slice) -> None:
        nearest(queries[part], planes, within, distances[part], places[part])

    if len(queries):
        over_rows(search, len(queries), len(queries) * len(rows) * _STEPS, most=_FEW)
    return distances, places
