"""Sampled similarities against all pairs."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from bcls_core.audit.labelled import LabelledMeasure, SplitCaptions
from bcls_core.audit.spread import PERCENTILES, SimilaritySpread, sample_spread


def spread_of(ground: Any, pairs: int, seed: int = 0) -> SimilaritySpread:
    measure, captions = LabelledMeasure(ground.labels, "toy"), SplitCaptions(ground.rows("train"))
    nearest = np.array([0.5, 0.25], dtype=np.float32)
    return sample_spread(measure, captions, nearest=nearest, pairs=pairs, seed=seed)


def similarities(ground: Any) -> Any:
    """Of all pairs, by whether they are of one image, and the best of each caption with its own image's."""
    measure, written = LabelledMeasure(ground.labels, "toy"), ground.of("train")
    rows = np.stack([c.row for c in written])
    matrix = measure.similarity.matrix(rows, rows)
    pairs: dict[bool, list[float]] = {True: [], False: []}
    best: dict[int, list[float]] = defaultdict(list)
    for i, j in combinations(range(len(written)), 2):
        same = written[i].image == written[j].image
        pairs[same].append(float(matrix[i, j]))
        if same:
            best[i].append(float(matrix[i, j]))
            best[j].append(float(matrix[i, j]))
    return pairs, sorted(max(values) for values in best.values())


def test_with_enough_pairs_every_image_is_taken_whole(ground: Any) -> None:
    found = spread_of(ground, pairs=5_000)
    pairs, best = similarities(ground)
    assert found.same_image.tolist() == sorted(pairs[True])
    assert found.own_label.tolist() == best
    assert set(found.random.tolist()) <= set(pairs[False])
    assert len(found.random) < 5_000, "pairs of one image are left out"
    assert float(found.random.mean()) == pytest.approx(np.mean(pairs[False]), abs=0.02)
    assert found.nearest.tolist() == [0.25, 0.5]


def test_a_small_sample_takes_some_images_and_the_seed_decides_which(ground: Any) -> None:
    pairs, _ = similarities(ground)
    found = [spread_of(ground, pairs=6, seed=seed) for seed in (0, 0, 1)]
    assert 6 <= len(found[0].same_image) < len(pairs[True])
    np.testing.assert_array_equal(found[0].same_image, found[1].same_image)
    assert found[0].same_image.tolist() != found[2].same_image.tolist()


def test_percentiles_leave_out_what_is_empty() -> None:
    empty = np.empty(0, dtype=np.float32)
    found = SimilaritySpread(np.arange(101, dtype=np.float32), empty, empty, empty).percentiles()
    assert found == {"random": {f"p{p}": float(p) for p in PERCENTILES}}
