from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import InputError, ShapeError
from bcls_core.metrics.coco import coco_queries, coco_queries_from_scores, coco_recalls
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth
from bcls_core.metrics.cxc import cxc
from bcls_core.metrics.eccv import eccv

TOP = (1, 5, 10)


def by_rankings(rankings, truth):
    """What the functions over lists of ids say, under the names of `CocoQueries.metrics`."""
    named = {f"coco-{name}": value for name, value in coco_recalls(*rankings, ground_truth=truth).items()}
    named |= {f"cxc/{name}": value for name, value in cxc(*rankings, ground_truth=truth).items()}
    return named | {f"eccv/{name}": value for name, value in eccv(*rankings, ground_truth=truth).items()}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 6), levels=st.sampled_from([1, 3, 1000]))
def test_recalls_equal_the_package(small_coco, reference, seed, size, levels):
    small = small_coco(seed, size)
    generator = np.random.default_rng(seed)
    images, captions, *_ = small.rows(generator)
    rankings = small.rankings(generator.integers(0, levels, (len(images), len(captions))), images, captions)
    result, package = coco_recalls(*rankings, ground_truth=small.folder), reference(small)
    given_ = dict(zip(("i2t", "t2i"), rankings, strict=True))
    for name, theirs in (("1k", package.coco_1k_recalls), ("5k", package.coco_5k_recalls)):
        for k in TOP:
            for direction, value in theirs(given_, "all", K=k).items():
                assert result[f"{name}/{direction}/r{k}"] == pytest.approx(100 * value, abs=1e-10)
        six = sum(result[f"{name}/{direction}/r{k}"] for direction in ("i2t", "t2i") for k in TOP)
        assert result[f"{name}/rsum"] == pytest.approx(six)
        assert (result[f"{name}/i2t/queries"], result[f"{name}/t2i/queries"]) == (len(images), len(captions))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(6, 9), levels=st.sampled_from([1, 3, 1000]))
def test_scores_equal_rankings_with_ties_and_captions_too_many(small_coco, seed, size, levels):
    small = small_coco(seed, size)
    truth = CocoGroundTruth.load(small.folder)
    generator = np.random.default_rng(seed)
    images, captions, ids, rows = small.rows(generator)
    scores = generator.integers(0, levels, (len(images), len(captions))).astype(np.float32)
    expected = by_rankings(small.rankings(scores, images, captions), truth)
    place = generator.integers(0, len(ids), 3)  # in front of which captions are put that are not in the gallery
    queries = coco_queries_from_scores(
        np.insert(scores, place, 2000, axis=1),
        np.insert(ids, place, small.strangers),
        np.insert(rows, place, generator.integers(0, len(images), 3)),
        ground_truth=truth,
    )
    metrics = queries.metrics()
    assert queries.left_out == 3
    for name in ("coco-1k", "coco-5k", "cxc", "eccv"):
        assert metrics[f"{name}/t2i/excluded"] == expected[f"{name}/t2i/excluded"] + 3
        metrics[f"{name}/t2i/excluded"] -= 3
    assert metrics == pytest.approx(expected, abs=1e-10)


def test_every_query_contributes_what_its_row_says(small_coco):
    small = small_coco(50, 6)
    truth = CocoGroundTruth.load(small.folder)
    generator = np.random.default_rng(0)
    images, captions, ids, rows = small.rows(generator)
    scores = generator.integers(0, 9, (len(images), len(captions)))
    i2t, t2i = small.rankings(scores, images, captions)
    queries = coco_queries_from_scores(scores, ids, rows, ground_truth=truth)
    fold = {image: place // 6 for place, image in enumerate(small.images)}
    for direction, values, names, part in (
        ("i2t", queries.per_image, images, i2t),
        ("t2i", queries.per_caption, captions, t2i),
    ):
        assert set(values) == {f"{n}/rank" for n in ("coco-1k", "coco-5k", "cxc")} | {
            f"eccv/{n}" for n in ("r1", "r_precision", "map_at_r")
        }
        for row, query in enumerate(names):
            own, ranking = small.answers["coco"][direction][query], part[query]
            assert values["coco-5k/rank"][row] == min(ranking.index(answer) for answer in own)
            image = query if direction == "i2t" else small.image_of[query]
            near = [x for x in ranking if fold[small.image_of[x] if direction == "i2t" else x] == fold[image]]
            assert values["coco-1k/rank"][row] == min(near.index(answer) for answer in own)
            judged = small.answers["cxc"][direction].get(query)
            expected = min(ranking.index(answer) for answer in judged) if judged else np.nan
            assert np.array_equal(values["cxc/rank"][row], expected, equal_nan=True)
            accepted = small.answers["eccv"][direction].get(query)
            expected = float(ranking[0] in accepted) if accepted else np.nan
            assert np.array_equal(values["eccv/r1"][row], expected, equal_nan=True)
            assert np.isnan(values["eccv/map_at_r"][row]) == np.isnan(values["eccv/r_precision"][row]) == (not accepted)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), distinct=st.sampled_from([4, 500]), extra=st.booleans())
def test_encodings_equal_their_scores_with_duplicates(small_coco, seed, distinct, extra):
    small = small_coco(seed % 50, 6)
    truth = CocoGroundTruth.load(small.folder)
    generator = np.random.default_rng(seed)
    images, _, ids, rows = small.rows(generator)
    if extra:
        ids, rows = np.append(small.strangers, ids), np.append([0, 1, 1], rows)
    pool = generator.standard_normal((distinct, 7)).astype(np.float16)
    left, right = pool[generator.integers(0, distinct, len(images))], pool[generator.integers(0, distinct, len(ids))]
    scores = (left.astype(np.float64) @ right.astype(np.float64).T).astype(np.float32)
    found = coco_queries(torch.tensor(left), right, ids, torch.tensor(rows), ground_truth=truth)
    expected = coco_queries_from_scores(scores, torch.tensor(ids), rows, ground_truth=truth)
    for ours, theirs in ((found.per_image, expected.per_image), (found.per_caption, expected.per_caption)):
        assert all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in theirs)
    assert found.metrics() == expected.metrics()
    assert found.left_out == 3 * extra


def test_the_order_of_rows_moves_the_contributions_and_nothing_else(small_coco):
    small = small_coco(51, 6)
    generator = np.random.default_rng(1)
    images, _, ids, rows = small.rows(generator)
    scores = generator.permutation(len(images) * len(ids)).reshape(len(images), len(ids))
    p, q = generator.permutation(len(images)), generator.permutation(len(ids))
    plain = coco_queries_from_scores(scores, ids, rows, ground_truth=small.folder)
    moved = coco_queries_from_scores(scores[p][:, q], ids[q], np.argsort(p)[rows[q]], ground_truth=small.folder)
    assert moved.metrics() == pytest.approx(plain.metrics(), abs=1e-10)
    for name in plain.per_image:
        assert np.array_equal(moved.per_image[name], plain.per_image[name][p], equal_nan=True)
        assert np.array_equal(moved.per_caption[name], plain.per_caption[name][q], equal_nan=True)


def test_mistakes_are_named(small_coco):
    small = small_coco(52, 2)
    _, _, ids, rows = small.rows(np.random.default_rng(2))
    scores = np.zeros((10, len(ids)))
    with pytest.raises(InputError, match=r"caption_ids: 1 of the \d+ captions"):
        coco_queries_from_scores(scores[:, 1:], ids[1:], rows[1:], ground_truth=small.folder)
    with pytest.raises(ShapeError, match="caption_image: int64 of shape"):
        coco_queries_from_scores(scores, ids, rows[1:], ground_truth=small.folder)
    scores[3, 4] = np.nan
    with pytest.raises(ShapeError, match="scores: nan at row 3, column 4"):
        coco_queries_from_scores(scores, ids, rows, ground_truth=small.folder)
    with pytest.raises(ShapeError, match="caption_encodings: 5 dimensions"):
        coco_queries(np.ones((10, 4)), np.ones((len(ids), 5)), ids, rows, ground_truth=small.folder)


@pytest.mark.needs("data")
def test_recalls_of_the_published_files_equal_the_package_on_5k(reference, published_rankings, shared_data):
    truth = CocoGroundTruth.load(shared_data / "data" / "eccv_caption")
    i2t, t2i = published_rankings(truth, 1)
    result, package = coco_recalls(i2t, t2i, ground_truth=truth), reference(None)
    for k in (1, 10):
        for direction, value in package.coco_5k_recalls({"i2t": i2t, "t2i": t2i}, "all", K=k).items():
            assert result[f"5k/{direction}/r{k}"] == pytest.approx(100 * value, abs=1e-10)
            assert result[f"1k/{direction}/r{k}"] > result[f"5k/{direction}/r{k}"] > 5


@pytest.mark.slow
@pytest.mark.needs("data")
def test_a_model_of_the_whole_test_equals_the_package(reference, shared_data):
    truth = CocoGroundTruth.load(shared_data / "data" / "eccv_caption")
    generator = np.random.default_rng(3)
    images = generator.integers(-2, 3, (5000, 12)).astype(np.float32)  # many exact ties
    captions = images[truth.caption_image] + generator.integers(-1, 2, (25000, 12)).astype(np.float32)
    p, q = generator.permutation(5000), np.concatenate([generator.permutation(25000), np.full(10, -1)])
    extra = np.setdiff1d(np.arange(40), truth.captions.values)[:10]
    ids = np.where(q >= 0, truth.captions.values[q], np.append(np.zeros(25000, np.int64), extra))
    rows = np.where(q >= 0, np.argsort(p)[truth.caption_image[q]], 7)
    queries = coco_queries(images[p], captions[q], ids, rows, ground_truth=truth)
    metrics = queries.metrics()
    assert queries.left_out == 10
    scores = images[p] @ captions[q[:25000]].T
    image_ids, caption_ids = truth.images.values[p].tolist(), ids[:25000].tolist()
    i2t = {image: ids[np.argsort(-scores[row], kind="stable")].tolist() for row, image in enumerate(image_ids)}
    columns = truth.images.values[p]
    t2i = {c: columns[np.argsort(-scores[:, row], kind="stable")].tolist() for row, c in enumerate(caption_ids)}
    ours = by_rankings((i2t, t2i), truth)
    for name in ("coco-1k", "coco-5k", "cxc", "eccv"):
        metrics[f"{name}/t2i/excluded"] -= 10
    assert metrics == pytest.approx(ours, abs=1e-10)
    package, given_ = reference(None), {"i2t": i2t, "t2i": t2i}
    for k in TOP:
        for name in ("coco_1k", "coco_5k", "cxc"):
            for direction, value in getattr(package, f"{name}_recalls")(given_, "all", K=k).items():
                assert metrics[f"{name.replace('_', '-')}/{direction}/r{k}"] == pytest.approx(100 * value, abs=1e-10)
    for name, values in package.eccv_metrics(given_, "all").items():
        ours_name = {"eccv_rprecision": "r_precision"}.get(name, name.removeprefix("eccv_"))
        for direction, value in values.items():
            assert metrics[f"eccv/{direction}/{ours_name}"] == pytest.approx(100 * value, abs=1e-10)
