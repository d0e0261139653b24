from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.metrics.coco_ground_truth import CocoGroundTruth
from bcls_core.metrics.cxc import cxc

TOP = (1, 5, 10)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 6), levels=st.sampled_from([1, 3, 1000]))
def test_equals_brute_force_and_the_package(small_coco, reference, seed, size, levels):
    small = small_coco(seed, size)
    generator = np.random.default_rng(seed)
    images, captions, *_ = small.rows(generator)
    rankings = small.rankings(generator.integers(0, levels, (len(images), len(captions))), images, captions)
    result = cxc(*rankings, ground_truth=small.folder)
    package, recalls = reference(small), []
    for k in TOP:
        theirs = package.cxc_recalls(dict(zip(("i2t", "t2i"), rankings, strict=True)), "all", K=k)
        for direction in ("i2t", "t2i"):
            assert result[f"{direction}/r{k}"] == pytest.approx(100 * theirs[direction], abs=1e-10)
            recalls.append(result[f"{direction}/r{k}"])
    for direction, part in zip(("i2t", "t2i"), rankings, strict=True):
        asked = small.answers["cxc"][direction]
        places = [min(part[query].index(answer) for answer in answers) + 1 for query, answers in asked.items()]
        for k in TOP:
            expected = 100 * sum(place <= k for place in places) / len(places)
            assert result[f"{direction}/r{k}"] == pytest.approx(expected, abs=1e-10)
        assert result[f"{direction}/medr"] == statistics.median(places)
        assert result[f"{direction}/meanr"] == pytest.approx(statistics.mean(places))
        assert result[f"{direction}/queries"] == len(asked)
        assert result[f"{direction}/excluded"] == len(part) - len(asked)
    assert result["rsum"] == pytest.approx(sum(recalls))


@pytest.mark.needs("data")
def test_equals_the_package_on_the_published_files(reference, published_rankings, shared_data):
    truth = CocoGroundTruth.load(shared_data / "data" / "eccv_caption")
    i2t, t2i = published_rankings(truth)
    result = cxc(i2t, t2i, ground_truth=truth)
    package = reference(None)
    for k in (1, 10):
        theirs = package.cxc_recalls({"i2t": i2t, "t2i": t2i}, "all", K=k)
        for direction in ("i2t", "t2i"):
            assert result[f"{direction}/r{k}"] == pytest.approx(100 * theirs[direction], abs=1e-10)
    assert 5 < result["i2t/r1"] < result["i2t/r10"] < 99
    assert (result["i2t/queries"], result["t2i/queries"], result["t2i/excluded"]) == (5000, 24972, 28)
