"""Unannotated pairs with high labels, against loops over the written neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bcls_core.audit.false_negatives import find_false_negatives, nearest_scores
from bcls_core.audit.labelled import LabelledMeasure, SplitCaptions

KEPT = 5


def lists_of(ground: Any, split: str) -> dict[int, list[tuple[int, float]]]:
    shards = [table.to_pylist() for table in ground.labels.scan("neighbours/toy")]
    own = {c.id for c in ground.of(split)}
    return {
        row["id"]: list(zip(row["ids"], row["scores"], strict=True))
        for rows in shards
        for row in rows
        if row["id"] in own
    }


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.7, 0.9, 1.0])
def test_counts_are_those_of_the_lists(ground: Any, split: str, threshold: float) -> None:
    measure, rows = LabelledMeasure(ground.labels, "toy"), ground.rows(split)
    found = find_false_negatives(measure, rows, SplitCaptions(rows), threshold=threshold, examples=3)
    image_of = {c.id: c.image for c in ground.captions}
    lists = lists_of(ground, split)
    reached = {
        caption: [(other, score) for other, score in pairs if score >= np.float32(threshold)]
        for caption, pairs in lists.items()
    }
    assert found.captions == len(lists)
    assert found.affected == sum(bool(pairs) for pairs in reached.values())
    assert found.pairs == sum(len({image_of[other] for other, _ in pairs}) for pairs in reached.values())
    assert found.cut == sum(len(pairs) == KEPT for pairs in reached.values())
    expected: list[tuple[int, int, float]] = []
    seen: set[frozenset[str]] = set()
    everything = sorted((-score, caption, other) for caption, pairs in reached.items() for other, score in pairs)
    for score, caption, other in everything:
        images = frozenset((image_of[caption], image_of[other]))
        if images not in seen and len(expected) < 3:
            seen.add(images)
            expected.append((caption, other, -score))
    assert found.worst == expected


def test_a_threshold_is_reached_by_its_own_fp32_value(ground: Any) -> None:
    measure, rows = LabelledMeasure(ground.labels, "toy"), ground.rows("train")
    scores = np.unique([score for pairs in lists_of(ground, "train").values() for _, score in pairs])
    chosen = next(float(score) for score in scores if float(score) != round(float(score), 3))
    slightly = np.nextafter(chosen, 2.0)
    both = [
        find_false_negatives(measure, rows, SplitCaptions(rows), threshold=value, examples=1).pairs
        for value in (chosen, slightly)
    ]
    assert both[0] == both[1]


def test_nearest_scores_are_the_first_of_each_list(ground: Any) -> None:
    found = nearest_scores(LabelledMeasure(ground.labels, "toy"), ground.rows("train"))
    assert sorted(found.tolist()) == sorted(pairs[0][1] for pairs in lists_of(ground, "train").values())
