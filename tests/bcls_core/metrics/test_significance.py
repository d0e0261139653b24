from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.metrics.replicates import Mean, Median, Spearman, Total, replicates
from bcls_core.metrics.resamples import ImageResamples
from bcls_core.metrics.significance import (
    Difference,
    Interval,
    difference,
    differences,
    interval,
    intervals,
    paired_bootstrap,
)

NAN = float("nan")


def drawn(draws):
    """Rows of the images of each draw, in plain numbers."""
    return [np.repeat(np.arange(draws.images), row.astype(int)) for row in np.concatenate([*draws.blocks()])]


def clustered(generator, images, seeds=1, of_seed=0.0, of_query=0.6):
    """Images of the queries, 1 to 7 an image, and values (seeds, queries) that an image's queries share in part."""
    image = np.repeat(np.arange(images), generator.integers(1, 8, images))
    shared = generator.standard_normal(images)[image] + 0.5 * generator.standard_normal(len(image))
    seed_of = of_seed * generator.standard_normal((seeds, 1))
    return image, shared, shared + seed_of + of_query * generator.standard_normal((seeds, len(image)))


@settings(max_examples=25, deadline=None)
@given(images=st.integers(2, 12), seed=st.integers(0, 1000), confidence=st.sampled_from([0.5, 0.9, 0.95]))
def test_equals_a_loop_over_draws(images, seed, confidence):
    generator = np.random.default_rng(seed)
    image, _, (first, second) = clustered(generator, images, seeds=2)
    draws = ImageResamples(images, 60, seed)
    rows = [np.concatenate([np.flatnonzero(image == each) for each in draw]) for draw in drawn(draws)]
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    median = interval(Median(first, image), resamples=draws, confidence=confidence)
    assert median.estimate == np.median(first)
    assert [median.low, median.high] == pytest.approx(np.quantile([np.median(first[row]) for row in rows], tails))
    by_draw = np.array([second[row].mean() - first[row].mean() for row in rows])
    found = difference(Mean(first, image), Mean(second, image), resamples=draws, confidence=confidence)
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(by_draw, tails))
    rarer = min((by_draw <= 0).sum(), (by_draw >= 0).sum())
    assert found.p_value == pytest.approx(min(1, 2 * (rarer + 1) / 61))


def test_many_at_once_equal_each_alone():
    generator = np.random.default_rng(0)
    image, _, values = clustered(generator, 40, seeds=6)
    draws = ImageResamples(40, 200)
    means = [Mean(row, image) for row in values]
    metrics = {
        "one": means[0],
        "median": Median(values[0], image),
        "seeds": means[:3],
        "rsum": [Total(means[:2]), Total(means[2:4])],
        "rho": Spearman(values[0], values[1], image),
    }
    together = intervals(metrics, resamples=draws)
    assert [*together] == [*metrics]
    for name, statistics in metrics.items():
        alone = interval(statistics, resamples=draws)
        assert [*together[name].as_dict().values()] == pytest.approx([*alone.as_dict().values()], rel=1e-9)
        assert alone.low < alone.estimate < alone.high
    pairs = {"seeds": (means[:3], means[3:]), "one": (means[0], means[1]), "uneven": (means[0], means[1:4])}
    for name, found in differences(pairs, resamples=draws).items():
        alone = difference(*pairs[name], resamples=draws)
        assert [*found.as_dict().values()] == pytest.approx([*alone.as_dict().values()], rel=1e-9)
    assert intervals({}, resamples=draws) == {}


@pytest.mark.parametrize("images", [50, 800])
def test_the_width_of_a_ratio_is_that_of_its_linearised_form(images):
    image, _, values = clustered(np.random.default_rng(1), images)
    away = np.bincount(image, weights=values[0] - values[0].mean())
    error = (away @ away) ** 0.5 / len(image)
    for confidence in (0.8, 0.95):
        found = interval(Mean(values[0], image), resamples=ImageResamples(images), confidence=confidence)
        assert found.high - found.low == pytest.approx(2 * stats.norm.ppf((1 + confidence) / 2) * error, rel=0.06)


def test_the_width_is_that_of_the_textbook():
    generator = np.random.default_rng(2)
    values = generator.standard_normal(400)
    found = interval(Mean(values, np.arange(400)), resamples=ImageResamples(400, 10_000))
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert [found.low, found.high] == pytest.approx([*expected], abs=0.006)


def test_equal_models_do_not_differ():
    generator = np.random.default_rng(3)
    image, _, values = clustered(generator, 30)
    same = Difference(0.0, 0.0, 0.0, 1.0)
    assert paired_bootstrap(values[0], values[0], image, resamples=200) == same
    parts = [Mean(row, image) for row in generator.random((6, len(image)))]
    backwards = Total(parts[::-1])  # equal but for rounding
    assert difference(Total(parts), backwards, resamples=ImageResamples(30, 200)) == same


def test_the_second_is_compared_with_the_first():
    generator = np.random.default_rng(4)
    image, _, values = clustered(generator, 60, seeds=2)
    better = paired_bootstrap(values[0], values[1] + 0.5, image, resamples=500)
    assert 0.3 < better.low < better.difference < better.high < 0.7
    assert better.p_value == pytest.approx(2 / 501)
    worse = paired_bootstrap(values[1] + 0.5, values[0], image, resamples=500)
    assert [worse.difference, worse.low, worse.high, worse.p_value] == pytest.approx(
        [-better.difference, -better.high, -better.low, better.p_value]
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-1, 1), seeds=st.integers(1, 3))
def test_the_p_value_agrees_with_the_interval(seed, shift, seeds):
    generator = np.random.default_rng(seed)
    image, _, values = clustered(generator, 15, seeds=2 * seeds)
    found = paired_bootstrap(values[:seeds], values[seeds:] + shift, image, resamples=999)
    if found.p_value < 0.048:
        assert not found.low <= 0 <= found.high
    if found.p_value > 0.052:
        assert found.low <= 0 <= found.high


def test_images_are_known_by_any_name_and_queries_come_in_any_order():
    generator = np.random.default_rng(5)
    image, _, values = clustered(generator, 30, seeds=2)
    plain = paired_bootstrap(*values, image, resamples=300)
    names = [f"COCO_{each}.jpg" for each in image]
    for given_ in (names, np.array(names), torch.tensor(image), [(each, "test") for each in image], image * 7 + 100):
        assert paired_bootstrap(*values, given_, resamples=300) == plain
    order = np.argsort(image + generator.random(len(image)))  # within an image
    shuffled = paired_bootstrap(*(values[:, order]), image[order], resamples=300)
    assert [*shuffled.as_dict().values()] == pytest.approx([*plain.as_dict().values()])
    alone = paired_bootstrap(*values, resamples=300)
    assert alone == paired_bootstrap(*values, np.arange(len(image)), resamples=300)
    assert alone.high - alone.low < plain.high - plain.low


def test_a_query_left_out_is_no_query():
    generator = np.random.default_rng(6)
    image, _, values = clustered(generator, 30, seeds=5)
    out = (generator.random(len(image)) < 0.3) & (image > 2)
    gone = np.where(out, NAN, values)
    found = paired_bootstrap(gone[:3], gone[3:], image, resamples=300)
    assert found == paired_bootstrap(values[:3, ~out], values[3:, ~out], image[~out], resamples=300)


def test_an_undefined_estimate_has_no_interval():
    flat = Spearman(np.ones(6), np.arange(6.0), np.arange(6))
    other = Spearman(np.arange(6.0), np.arange(6.0), np.arange(6))
    draws = ImageResamples(6, 50)
    assert np.isnan([*interval(flat, resamples=draws).as_dict().values()]).all()
    assert np.isnan([*difference(other, flat, resamples=draws).as_dict().values()]).all()


def test_what_cannot_be_compared_is_refused():
    two, three = np.zeros(2), np.zeros(3)
    for arguments, message in (
        ((two, three), r"shapes \(1, 2\) and \(1, 3\) as \(seeds, queries\)"),
        ((np.zeros((2, 0)), np.zeros((2, 0))), "at least one"),
        ((np.zeros((1, 1, 2)), two), r"shapes \(1, 1, 2\)"),
        ((two, two, [1]), "image: 1 for 2 queries"),
        ((two, two, ["a", "a"]), "images: 1, but an interval needs at least 2"),
        ((np.array([0, NAN]), two), "query 1 is nan in one and has a value in another"),
        ((np.zeros((2, 2)), np.array([[0, 0], [NAN, 0]])), "query 0 is nan in one"),
        ((two + NAN, two + NAN), "no query of 2 has a value"),
        ((np.array([0, np.inf]), two), "query 1 is infinite"),
        ((np.array([0, 0, NAN]), np.array([0, 0, NAN]), [4, 4, 5]), "seed 0 all belong to one image"),
    ):
        with pytest.raises(ShapeError, match=message):
            paired_bootstrap(*arguments)
    draws, mean = ImageResamples(2, 10), Mean(two, np.arange(2))
    with pytest.raises(ShapeError, match="statistics: none"):
        interval([], resamples=draws)
    with pytest.raises(ShapeError, match="statistics: none"):
        difference(mean, [], resamples=draws)
    with pytest.raises(ShapeError, match="belongs to row 5, but images are drawn from 2"):
        interval(Mean(two, np.array([1, 5])), resamples=draws)
    for confidence in (0.0, 1.0, 95, NAN):
        with pytest.raises(ConfigError, match=f"confidence: {confidence}"):
            interval(mean, resamples=draws, confidence=confidence)


def covered(found, truth):
    """Percent."""
    return 100 * np.mean([each.low <= truth <= each.high for each in found])


PARTS, IMAGES, RESAMPLES = 50, 60, 300  # parts of 20 simulations on the same draws; wrong ways get a third of them


def test_coverage_of_means_with_several_captions_an_image():
    generator = np.random.default_rng(10)
    by_image, by_caption = [], []
    for part in range(PARTS):
        image = np.repeat(np.arange(IMAGES), generator.integers(1, 8, IMAGES))
        shared = generator.standard_normal((20, IMAGES))[:, image]
        values = (shared + 0.8 * generator.standard_normal(shared.shape) > 0.4) * 100.0
        for rows, found in ((image, by_image), (np.arange(len(image)), by_caption))[: 1 if part % 3 else 2]:
            draws = ImageResamples(int(rows[-1]) + 1, RESAMPLES, part)
            found += intervals({str(i): Mean(row, rows) for i, row in enumerate(values)}, resamples=draws).values()
    truth = 100 * stats.norm.sf(0.4 / np.hypot(1, 0.8))
    assert 93 <= covered(by_image, truth) <= 97
    assert covered(by_caption, truth) < 90


def test_coverage_of_a_correlation_pooled_over_pairs():
    generator = np.random.default_rng(11)
    by_image, by_pair = [], []
    for part in range(PARTS):
        image = np.repeat(np.arange(IMAGES), generator.integers(1, 8, IMAGES))
        for rows, found in ((image, by_image), (np.arange(len(image)), by_pair))[: 1 if part % 3 else 2]:
            statistics = {}
            pairs = np.random.default_rng([12, part])  # the same data for both
            for simulation in range(20):
                x = pairs.standard_normal(IMAGES)[image] + 0.3 * pairs.standard_normal(len(image))
                y = pairs.standard_normal(IMAGES)[image] + 0.3 * pairs.standard_normal(len(image))
                statistics[str(simulation)] = Spearman(x, 0.5 * x + 0.75**0.5 * y, rows)
            draws = ImageResamples(int(rows[-1]) + 1, RESAMPLES, part)
            found += intervals(statistics, resamples=draws).values()
    truth = 6 / np.pi * np.arcsin(0.5 / 2)  # of normal pairs that correlate by a half
    assert 93 <= covered(by_image, truth) <= 97
    assert covered(by_pair, truth) < 90


def test_coverage_of_a_difference_with_three_seeds_a_side():
    generator = np.random.default_rng(13)
    found, naive = [], []
    for part in range(PARTS):
        image = np.repeat(np.arange(IMAGES), generator.integers(1, 8, IMAGES))
        draws = ImageResamples(IMAGES, RESAMPLES, part)
        cases = {}
        for simulation in range(20):
            shared = generator.standard_normal(IMAGES)[image]
            of_seed = 0.3 * generator.standard_normal((6, 1))
            values = shared + of_seed + generator.standard_normal((6, len(image)))
            means = [Mean(row, image) for row in values]
            cases[str(simulation)] = (means[:3], means[3:])
        found += differences(cases, resamples=draws).values()
        by_draw = replicates([mean for case in cases.values() for side in case for mean in side], draws)
        times = generator.multinomial(3, np.full(3, 1 / 3), (2, RESAMPLES)) / 3  # seeds drawn from themselves
        first, second = np.einsum("cmsr,mrs->mcr", by_draw.reshape(20, 2, 3, RESAMPLES), times)
        naive += [Interval(0.0, *ends) for ends in np.quantile(second - first, [0.025, 0.975], axis=1).T]
    assert 93 <= covered(found, 0.0) <= 97
    assert covered(naive, 0.0) < 90


def test_an_image_without_a_name_is_refused():
    with pytest.raises(ShapeError, match="image: nan for query 1"):
        paired_bootstrap(np.ones(3), np.zeros(3), np.array([0.0, np.nan, 1.0]))
