"""Images that lost captions on the way from the source: the n-th of their captions may be another one there."""

from __future__ import annotations

import numpy as np

from bcls_core.data.records import LARGEST_CAPTION_ID
from bcls_core.data.rejects import CAPTIONS_SOURCE, Reason
from bcls_core.data.rows import CorpusRows

_TABLE = "rejects"


def images_short_of_captions(rows: CorpusRows) -> set[str]:
    """Ids of a split's images that may have had more captions in the source than in the corpus.

    A reject holds the id of a caption, not that of its image. Captions of an image have ids near each other, so a
    rejected id makes the images with the next lower and the next higher ids doubtful; a reject without a usable id
    makes all of them so. Captions rejected with their image are of no image that is here.
    """
    lost: list[int] = []
    for table in rows.corpus.scan(_TABLE):
        for source, key, reason in zip(*(table[name].to_pylist() for name in ("source", "key", "reason")), strict=True):
            if source != CAPTIONS_SOURCE or reason == Reason.IMAGE_REJECTED:
                continue
            if not key.isdecimal() or int(key) > LARGEST_CAPTION_ID:
                return set(rows.image_ids)
            lost.append(int(key))
    order = np.argsort(rows.caption_ids)
    above = np.searchsorted(rows.caption_ids[order], np.array(lost, dtype=np.int64))
    near = np.concatenate([above[above > 0] - 1, above[above < len(order)]]).astype(np.int64)
    return {rows.image_ids[row] for row in rows.caption_image[order[near]]}
