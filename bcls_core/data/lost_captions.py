"""Images that lost captions on the way from the source: the n-th of their captions may be another one there."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from bcls_core.data.records import LARGEST_CAPTION_ID
from bcls_core.data.rejects import CAPTIONS_SOURCE, Reason
from bcls_core.data.rows import CorpusRows

_TABLE = "rejects"
_NO_TEXT = (Reason.EMPTY_CAPTION, Reason.NOT_TEXT)


def images_short_of_captions(rows: CorpusRows) -> set[str]:
    """Ids of a split's images that may have had more captions in the source than in the corpus.

    A reject holds the id of a caption, not that of its image. Where each image's ids are a range of their own, a lost
    id belongs to an image whose range is next to it, and both neighbours are doubtful. All images are, where a lost
    caption had no id of its own, one above all others (it may have been numbered afterwards), or where ranges overlap.
    Captions rejected with their image are of no image that is here.
    """
    lost: list[int] = []
    for table in rows.corpus.scan(_TABLE):
        for source, key, reason in zip(*(table[name].to_pylist() for name in ("source", "key", "reason")), strict=True):
            if source != CAPTIONS_SOURCE or reason == Reason.IMAGE_REJECTED:
                continue
            if reason not in _NO_TEXT or not key.isdecimal() or int(key) > LARGEST_CAPTION_ID:
                return set(rows.image_ids)
            lost.append(int(key))
    if not lost:
        return set()
    order = np.argsort(rows.caption_ids)
    image = rows.caption_image[order]
    ranges_overlap = np.count_nonzero(np.diff(image)) + 1 != len(np.unique(image))
    if ranges_overlap or max(lost) > _largest_id(rows):
        return set(rows.image_ids)
    above = np.searchsorted(rows.caption_ids[order], np.array(lost, dtype=np.int64))
    near = np.concatenate([above[above > 0] - 1, above[above < len(order)]])
    return {rows.image_ids[row] for row in image[near]}


def _largest_id(rows: CorpusRows) -> int:
    """Of the captions of all splits."""
    found = (pc.max(table["caption_id"]).as_py() for table in rows.corpus.scan("captions", ["caption_id"]))
    return max((largest for largest in found if largest is not None), default=-1)
