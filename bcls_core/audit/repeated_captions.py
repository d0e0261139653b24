"""Captions of one split that stand in another one too, but for their writing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bcls_core.audit.digests import Digests, as_digests, digest, first_equal
from bcls_core.audit.normal_form import normal_form
from bcls_core.data.rows import CorpusRows


def caption_digests(captions: Iterable[str]) -> Digests:
    """(captions, 2) digests of the captions' normal forms."""
    return as_digests(digest(normal_form(caption).encode("utf-8", "surrogatepass")) for caption in captions)


def split_digests(rows: CorpusRows) -> Digests:
    """(captions, 2) of one split, in row order; one shard's captions are held at a time."""
    return as_digests(
        digest(normal_form(caption).encode())
        for shard in rows.shards
        for caption in rows.corpus.read("captions", shard, ["caption"])["caption"].to_pylist()
    )


def repeated(captions: Sequence[str], others: Sequence[str]) -> NDArray[np.int64]:
    """(captions,) number of the first of `others` that is equal but for case, punctuation and spaces; -1 for none."""
    return first_equal(caption_digests(captions), caption_digests(others))
