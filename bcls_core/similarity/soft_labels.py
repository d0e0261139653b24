"""Soft labels of captions: how a teacher spreads its belief over all captions of a split.

After Huang et al. 2024 (CUSA), whose targets are `softmax(similarity / temperature)` over a batch; here over a whole
split. A row holds the caption itself, its nearest captions of other images, and what is left for all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bcls_core.similarity.label_tables import list_columns, of_captions
from bcls_core.similarity.measure import FloatArray, IntArray, RowSimilarity
from bcls_core.similarity.parallel import over_parts, read_only

SOFT_LABELS_VERSION = 1
"""Raised by hand whenever probabilities change."""

SOFT_LABELS = "soft_labels"
SOFT_LABELS_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("ids", pa.list_(pa.int64()), nullable=False),
        pa.field("probs", pa.list_(pa.float32()), nullable=False),
        pa.field("tail_mass", pa.float32(), nullable=False),
    ]
)
"""`ids` begins with `id` itself; `probs` and `tail_mass` add up to 1."""

_ROWS_AT_ONCE = 1024


class TailSample:
    """Random captions of a split, from which the mass of all but the nearest is estimated.

    The mean of `exp(similarity / temperature)` over the sampled captions that are not among the nearest stands for all
    of those. With a split no larger than the sample the mass is exact.
    """

    def __init__(self, similarity: RowSimilarity[Any], rows: Any, images: IntArray, size: int, seed: int) -> None:
        """
        Args:
            rows: of the split, in order of ids.
            images: (captions,) number of each caption's image.
            size: captions drawn.
            seed: of the draw.
        """
        count = len(images)
        drawn = np.random.default_rng([seed, count]).permutation(count)[:size]
        self._drawn: IntArray = np.sort(drawn)
        self._similarity = similarity
        self._rows = rows
        self._sampled = rows[self._drawn]
        self._images = images
        self._of_image = np.bincount(images)

    def distributions(
        self, places: IntArray, scores: FloatArray, neighbours: IntArray, temperature: float
    ) -> tuple[FloatArray, FloatArray]:
        """Probabilities of each caption and its neighbours, and the mass of all others.

        Args:
            places: (queries,) rows asked about.
            scores, neighbours: (queries, k) as `top_k` gives them, in rows; -1 where there is none.
            temperature: in units of the similarity.
        Returns:
            probs: (queries, 1 + k) the caption itself first; 0 where there is no neighbour.
            tail: (queries,)
        """
        # Imported here: it loads the compiler.
        from bcls_core.similarity import soft_label_kernels as kernels

        probs = np.empty((len(places), scores.shape[1] + 1), dtype=np.float32)
        tail = np.empty(len(places), dtype=np.float32)
        others = len(self._images) - self._of_image[self._images[places]]
        for start in range(0, len(places), _ROWS_AT_ONCE):
            block = slice(start, min(start + _ROWS_AT_ONCE, len(places)))
            asked = self._rows[places[block]]
            own = self._similarity.pairs(asked, asked)
            sampled = self._similarity.matrix(asked, self._sampled)
            images = self._images[places[block]]

            def spread(
                part: slice, block: slice = block, own: Any = own, sampled: Any = sampled, images: Any = images
            ) -> None:
                inner = slice(block.start + part.start, block.start + part.stop)
                kernels.spread(
                    own[part], images[part], others[inner], scores[inner], neighbours[inner], sampled[part],
                    self._drawn, read_only(self._images), 1 / temperature, probs[inner], tail[inner],
                )  # fmt: skip

            over_parts(block.stop - block.start, spread)
        return probs, tail


def soft_labels_table(
    measure: str, caption_ids: IntArray, neighbours: IntArray, probs: FloatArray, tail: FloatArray
) -> pa.Table:
    """Rows of `soft_labels/MEASURE`.

    Args:
        caption_ids: (captions,)
        neighbours: (captions, k) ids, -1 ends a list early.
        probs: (captions, 1 + k)
        tail: (captions,)
    """
    ids = np.concatenate([caption_ids[:, None], neighbours], axis=1)
    there: NDArray[np.bool_] = np.concatenate([np.ones((len(ids), 1), dtype=np.bool_), neighbours >= 0], axis=1)
    return pa.table(
        [*of_captions(measure, caption_ids), *list_columns(there, ids, probs), pa.array(tail)],
        schema=SOFT_LABELS_SCHEMA,
    )
