from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import InputError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth
from bcls_core.metrics.eccv import eccv

NAMES = {"r1": "eccv_r1", "r_precision": "eccv_rprecision", "map_at_r": "eccv_map_at_r"}


def definition(ranking, answers):
    """R@1, R-Precision and mAP@R of one query, place by place."""
    total, hits, precisions = len(answers), 0, 0.0
    for r in range(1, total + 1):
        if ranking[r - 1] in answers:
            hits += 1
            precisions += hits / r
    return float(ranking[0] in answers), hits / total, precisions / total


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(6, 9), levels=st.sampled_from([1, 3, 1000]))
def test_equals_the_definition_and_the_package(small_coco, reference, seed, size, levels):
    small = small_coco(seed, size)
    generator = np.random.default_rng(seed)
    images, captions, *_ = small.rows(generator)
    rankings = small.rankings(generator.integers(0, levels, (len(images), len(captions))), images, captions)
    result = eccv(*rankings, ground_truth=small.folder)
    theirs = reference(small).eccv_metrics(dict(zip(("i2t", "t2i"), rankings, strict=True)), "all")
    for direction, part, rows in (("i2t", rankings[0], images), ("t2i", rankings[1], captions)):
        asked = small.answers["eccv"][direction]
        values = np.mean([definition(part[query], set(answers)) for query, answers in asked.items()], 0)
        for (name, their_name), value in zip(NAMES.items(), values, strict=True):
            assert result[f"{direction}/{name}"] == pytest.approx(100 * value, abs=1e-10)
            assert result[f"{direction}/{name}"] == pytest.approx(100 * theirs[their_name][direction], abs=1e-10)
        assert (result[f"{direction}/queries"], result[f"{direction}/excluded"]) == (len(asked), len(rows) - len(asked))


def test_hand_made_case(small_coco):
    small = small_coco(30, 2)
    image, caption = small.images[0], small.captions[0]
    a, b, c, *rest = small.captions
    small.answers["eccv"] = {"i2t": {image: [a, c]}, "t2i": {caption: small.images[1:4]}}
    small.write()
    x, *others = small.images
    result = eccv({image: [b, a, c, *rest]}, {caption: [others[0], x, *others[1:]]}, ground_truth=small.folder)
    assert result == pytest.approx(
        {
            "i2t/r1": 0.0,
            "i2t/r_precision": 50.0,  # of two answers one is among the first two
            "i2t/map_at_r": 25.0,  # (0 + 1/2) / 2
            "i2t/queries": 1,
            "i2t/excluded": len(small.images) - 1,
            "t2i/r1": 100.0,
            "t2i/r_precision": 200 / 3,  # the first and the third
            "t2i/map_at_r": 100 * (1 + 2 / 3) / 3,
            "t2i/queries": 1,
            "t2i/excluded": len(small.captions) - 1,
        }
    )


def test_answers_outside_the_gallery_count_in_r(small_coco):
    small = small_coco(31, 2)
    image = small.images[0]
    small.answers["eccv"]["i2t"] = {image: [small.captions[3], *small.strangers[:2]]}
    small.write()
    rankings = {image: small.captions[3:] + small.captions[:3]}
    t2i = dict.fromkeys(small.captions, small.images)
    result = eccv(rankings, t2i, ground_truth=small.folder)
    assert result["i2t/r1"] == 100.0
    assert result["i2t/r_precision"] == result["i2t/map_at_r"] == pytest.approx(100 / 3)


@pytest.mark.needs("data")
def test_equals_the_package_on_the_published_files(reference, published_rankings, shared_data):
    truth = CocoGroundTruth.load(shared_data / "data" / "eccv_caption")
    i2t, t2i = published_rankings(truth)
    result = eccv(i2t, t2i, ground_truth=truth)
    theirs = reference(None).eccv_metrics({"i2t": i2t, "t2i": t2i}, "all")
    for name, their_name in NAMES.items():
        for direction in ("i2t", "t2i"):
            assert result[f"{direction}/{name}"] == pytest.approx(100 * theirs[their_name][direction], abs=1e-10)
            assert result[f"{direction}/{name}"] > 1
    assert (result["i2t/queries"], result["t2i/queries"]) == (1261, 1332)


@pytest.mark.needs("data")
def test_small_ids_of_another_dataset_are_refused(shared_data):
    truth = CocoGroundTruth.load(shared_data / "data" / "eccv_caption")
    assert 0 < (truth.captions.find(np.arange(25000)) >= 0).sum() < 25000  # some of them exist
    t2i = dict.fromkeys(truth.captions.values.tolist(), np.arange(5000))
    with pytest.raises(InputError, match=r"i2t: \d+ of the 1261 images that the ground truth asks have no ranking"):
        eccv(dict.fromkeys(range(5000), np.arange(25000)), t2i, ground_truth=truth)
    i2t = dict.fromkeys(truth.images.values.tolist(), np.arange(25000))
    with pytest.raises(InputError, match=r"i2t: 1261 of 1261 rankings rank other captions than the ground truth's"):
        eccv(i2t, t2i, ground_truth=truth)
    i2t = dict.fromkeys(truth.images.values.tolist(), truth.captions.values)
    with pytest.raises(InputError, match=r"t2i: 1332 of 1332 rankings rank other images .* exactly its 5,000 images"):
        eccv(i2t, t2i, ground_truth=truth)
