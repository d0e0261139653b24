"""Images that a caption was not written for and whose label says that it describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bcls_core.audit.labelled import LabelledMeasure, SplitCaptions
from bcls_core.data.rows import CorpusRows
from bcls_core.similarity.measure import FloatArray, IntArray

_SPARE = 32  # candidates kept for each example shown: most are the same pair of images again


@dataclass(frozen=True)
class FalseNegatives:
    """What the neighbours of one split's captions say.

    A caption's label for an image is its highest similarity to the image's captions.

    Attributes:
        captions: of the split.
        affected: captions with at least one image of a label from the threshold on.
        pairs: such (image, caption) pairs among the neighbours the label set keeps.
        cut: captions all of whose neighbours reach the threshold: they may have more than are counted.
        worst: caption, the other image's caption, label; highest first, at most one for a pair of images.
    """

    captions: int
    affected: int
    pairs: int
    cut: int
    worst: list[tuple[int, int, float]]


def nearest_scores(measure: LabelledMeasure, split: CorpusRows) -> FloatArray:
    """Similarity of each caption that has neighbours to the first of them."""
    found = [np.empty(0, dtype=np.float32)]
    for table in measure.neighbours(split):
        _, _, offsets, _, scores = _flat(table)
        starts = offsets[:-1][np.diff(offsets) > 0]
        found.append(scores[starts])
    return np.concatenate(found)


def find_false_negatives(
    measure: LabelledMeasure, split: CorpusRows, captions: SplitCaptions, *, threshold: float, examples: int
) -> FalseNegatives:
    """Counts the pairs of one split whose label reaches `threshold`, one shard after the other."""
    affected = pairs = cut = 0
    best = _Best(examples * _SPARE)
    longest = 0
    for table in measure.neighbours(split):
        ids, neighbours, offsets, row_of, scores = _flat(table)
        lengths = np.diff(offsets)
        longest = max(longest, int(lengths.max(initial=0)))
        reached = scores >= np.float32(threshold)
        images = captions.images[captions.places_of(neighbours[reached])]
        pairs += len(np.unique(row_of[reached] * max(1, split.image_count) + images))
        per_row = np.bincount(row_of[reached], minlength=len(ids))
        affected += int((per_row > 0).sum())
        cut += int(((per_row == lengths) & (lengths == longest) & (lengths > 0)).sum())
        best.offer(ids[row_of[reached]], neighbours[reached], scores[reached])
    return FalseNegatives(split.caption_count, affected, pairs, cut, _distinct(best, captions, examples))


class _Best:
    """The candidates with the highest scores; of equal ones those with the lowest ids."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.captions: IntArray = np.empty(0, dtype=np.int64)
        self.others: IntArray = np.empty(0, dtype=np.int64)
        self.scores: FloatArray = np.empty(0, dtype=np.float32)

    def offer(self, captions: IntArray, others: IntArray, scores: FloatArray) -> None:
        captions = np.concatenate([self.captions, captions])
        others = np.concatenate([self.others, others])
        scores = np.concatenate([self.scores, scores])
        kept = np.lexsort((others, captions, -scores))[: self._most]
        self.captions, self.others, self.scores = captions[kept], others[kept], scores[kept]


def _distinct(best: _Best, captions: SplitCaptions, examples: int) -> list[tuple[int, int, float]]:
    seen: set[tuple[int, int]] = set()
    found: list[tuple[int, int, float]] = []
    images = captions.images[captions.places_of(np.stack([best.captions, best.others]).reshape(-1))].reshape(2, -1)
    for place, (a, b) in enumerate(np.sort(images, axis=0).T.tolist()):
        if (a, b) not in seen and len(found) < examples:
            seen.add((a, b))
            found.append((int(best.captions[place]), int(best.others[place]), float(best.scores[place])))
    return found


def _flat(table: Any) -> tuple[IntArray, IntArray, IntArray, IntArray, FloatArray]:
    """Ids; all neighbours, where each list starts, whose each is, and their scores."""
    lists = table.column("ids").combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    offsets = offsets - offsets[0] if len(offsets) else np.zeros(1, dtype=np.int64)
    row_of = np.repeat(np.arange(len(lists), dtype=np.int64), np.diff(offsets))
    scores = table.column("scores").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return table.column("id").to_numpy(), lists.flatten().to_numpy(zero_copy_only=False), offsets, row_of, scores
