"""Equality at scale: 128-bit digests of texts and pictures, and the first equal one among millions."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
"""(things, 2): equal for equal things; two different ones among 10^9 agree with a probability below 10^-20."""

_BYTES = 16


def digest(content: bytes) -> bytes:
    """16 bytes that stand for `content`."""
    return blake2b(content, digest_size=_BYTES).digest()


def as_digests(contents: Iterable[bytes]) -> Digests:
    """(things, 2) from 16 bytes for each."""
    found: Digests = np.frombuffer(b"".join(contents), dtype=np.uint64).reshape(-1, 2)
    return found


def first_equal(queries: Digests, rows: Digests) -> NDArray[np.int64]:
    """(queries,) the lowest row with the same digest, -1 where there is none."""
    both = np.concatenate([rows, queries])
    # Stable, so that of equal digests the rows come first, the lowest one before all others.
    order = np.lexsort((both[:, 1], both[:, 0]))
    begins = np.ones(len(both), dtype=np.bool_)
    begins[1:] = (both[order[1:]] != both[order[:-1]]).any(axis=1)
    leader = np.empty(len(both), dtype=np.int64)
    leader[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(both)), 0))]
    found = leader[len(rows) :]
    return np.where(found < len(rows), found, -1)
