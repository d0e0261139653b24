from __future__ import annotations

import statistics
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.errors import ShapeError
from bcls_core.metrics.replicates import Mean, Median, Spearman, Total, replicates
from bcls_core.metrics.resamples import ImageResamples

NAN = float("nan")


def mean(values):
    return sum(values) / len(values) if values else NAN


def median(values):
    return statistics.median(values) if values else NAN


def spearman(pairs):
    x, y = zip(*pairs, strict=True) if pairs else ((), ())
    return float(stats.spearmanr(x, y).statistic) if len(set(x)) > 1 and len(set(y)) > 1 else NAN


def repeated(rows, image, counts):
    """The rows of the images drawn, each as often as its image."""
    return [row for row, of in zip(rows, image, strict=True) for _ in range(int(counts[of]))]


def evaluated(statistic, counts):
    counts = np.array(counts, dtype=np.float64)
    return statistic.on(counts, counts @ statistic.sums(counts.shape[1]))


@st.composite
def drawn_queries(draw, missing=False):
    images, queries = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    image = draw(st.lists(st.integers(0, images - 1), min_size=queries, max_size=queries))
    value = draw(st.sampled_from([st.integers(0, 2), st.integers(-40, 40), st.floats(-9, 9, width=32)]))
    value = value.map(float)
    rows = draw(st.lists(st.tuples(value, value), min_size=queries, max_size=queries))
    left_out = draw(st.lists(st.booleans(), min_size=queries, max_size=queries)) if missing else [False] * queries
    left_out[draw(st.integers(0, queries - 1))] = False
    counts = draw(
        st.lists(st.lists(st.integers(0, 4), min_size=images, max_size=images).map(tuple), min_size=1, max_size=4)
    )
    return rows, left_out, image, [*counts, (1,) * images]


@settings(max_examples=80, deadline=None)
@given(case=drawn_queries(missing=True))
def test_mean_and_median_equal_those_of_repeated_rows(case):
    rows, left_out, image, counts = case
    values = [NAN if out else row[0] for row, out in zip(rows, left_out, strict=True)]
    kept = [(v, i) for v, i in zip(values, image, strict=True) if v == v]
    for kind, oracle, close in ((Mean, mean, {"rel": 1e-9, "abs": 1e-9}), (Median, median, {"rel": 0, "abs": 0})):
        statistic = kind(np.array(values), np.array(image))
        expected = [oracle(repeated(*zip(*kept, strict=True), row)) for row in counts]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = evaluated(statistic, counts)
        assert found == pytest.approx(expected, nan_ok=True, **close)
        assert statistic.estimate == pytest.approx(expected[-1], **close)
        assert statistic.asked.tolist() == sorted({i for _, i in kept})


@settings(max_examples=80, deadline=None)
@given(case=drawn_queries())
def test_spearman_equals_scipy_on_repeated_rows(case):
    rows, _, image, counts = case
    statistic = Spearman(*np.array(rows).T, np.array(image))
    expected = [spearman(repeated(rows, image, row)) for row in counts]
    assert evaluated(statistic, counts) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert statistic.estimate == pytest.approx(expected[-1], abs=1e-12, nan_ok=True)


def test_spearman_of_many_pairs_loses_no_digits():
    generator = np.random.default_rng(0)
    x = generator.standard_normal(60_000)
    y, image = np.round(x + generator.standard_normal(60_000), 1), generator.integers(0, 500, 60_000)
    draws = ImageResamples(500, 2, seed=1)
    for found, row in zip(Spearman(x, y, image).replicates(draws), np.concatenate([*draws.blocks()]), strict=True):
        times = row[image].astype(int)
        assert found == pytest.approx(stats.spearmanr(x.repeat(times), y.repeat(times)).statistic, abs=1e-12)


def test_spearman_ignores_monotone_changes_and_changes_sign_with_the_order():
    generator = np.random.default_rng(1)
    x, y, image = generator.random(200), generator.random(200) + 0.01, generator.integers(0, 30, 200)
    draws = ImageResamples(30, 20)
    plain = Spearman(x, y, image).replicates(draws)
    assert (Spearman(np.exp(5 * x), np.log(y), image).replicates(draws) == plain).all()
    assert Spearman(-x, y, image).replicates(draws) == pytest.approx(-plain, abs=1e-15)


def test_total_is_the_sum_of_its_parts():
    generator = np.random.default_rng(2)
    image = np.repeat(np.arange(20), 3)
    parts = [
        Mean(generator.random(20), np.arange(20)),
        Median(generator.random(60), image),
        Spearman(generator.random(60), generator.random(60), image),
        Mean(generator.random(60), image),
    ]
    draws = ImageResamples(25, 50, seed=4)
    total = Total(parts)
    assert total.replicates(draws) == pytest.approx(sum(part.replicates(draws) for part in parts), abs=1e-12)
    assert total.estimate == pytest.approx(sum(part.estimate for part in parts))
    assert total.asked.tolist() == [*range(20)]
    nested = Total([Total(parts[:2]), *parts[2:]])
    assert nested.replicates(draws) == pytest.approx(total.replicates(draws), abs=1e-12)
    assert (total.is_mean, Total([parts[0], parts[3]]).is_mean) == (False, True)


def test_together_as_alone_whatever_the_block():
    generator = np.random.default_rng(3)
    image = generator.integers(0, 2**17, 500)
    several = [
        Median(generator.random(500), image),
        Mean(generator.random(500), image),
        Spearman(generator.random(500), generator.random(500), image),
        Mean(np.where(generator.random(500) < 0.5, NAN, 1.0), image),
    ]
    draws = ImageResamples(2**17, 19)  # blocks of 8, 8 and 3
    counts = np.concatenate([*draws.blocks(19)])
    together = replicates(several, draws)
    for row, statistic in zip(together, several, strict=True):
        assert row == pytest.approx(statistic.replicates(draws), rel=1e-12)
        assert row == pytest.approx(evaluated(statistic, counts), rel=1e-12)


def test_nothing_drawn_is_nan_and_no_warning():
    draws = ImageResamples(2000, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (Mean, Median):
            found = kind(np.array([1.0, 1.0]), np.array([7, 1999])).replicates(draws)
            drawn = np.concatenate([*draws.blocks()])[:, [7, 1999]].any(1)
            assert drawn.any()
            assert not drawn.all()
            assert (np.isnan(found) == ~drawn).all()


def test_equal_scores_have_no_correlation():
    assert np.isnan(Spearman(np.ones(4), np.arange(4), np.arange(4)).estimate)


def test_tensors_and_hits_are_taken_and_nothing_is_changed():
    values, image = torch.tensor([0.5, NAN, 1.0], dtype=torch.bfloat16), torch.tensor([0, 0, 1])
    assert Mean(values, image).estimate == 0.75
    assert Mean(np.array([True, False]), np.array([0, 1], dtype=np.uint8)).estimate == 0.5
    given_, rows = np.array([3.0, 1.0, 2.0]), np.array([2, 1, 0])
    for kind in (Mean, Median):
        kind(given_, rows).replicates(ImageResamples(3, 3))
    assert given_.tolist() == [3.0, 1.0, 2.0]
    assert rows.tolist() == [2, 1, 0]


@pytest.mark.parametrize("kind", [Mean, Median, lambda v, i: Spearman(np.zeros(len(v)), v, i)])
@pytest.mark.parametrize(
    ("values", "image", "message"),
    [
        ([1.0, 2.0], [0, 1, 2], r"shape \(2,\), image: int64 of shape \(3,\)"),
        ([1.0, 2.0], [0.0, 1.0], "whole numbers"),
        ([1.0, np.inf], [0, 1], r"query 1 is infinite \(inf"),
        ([1.0, 2.0, 3.0], [0, 1, -1], r"query 2 is of an image with a negative row \(\d.0, row -1\)"),
        ([NAN, NAN], [0, 1], "nan|no query of 2 has a value"),
    ],
)
def test_what_cannot_be_counted_is_named(kind, values, image, message):
    with pytest.raises(ShapeError, match=message):
        kind(np.array(values), np.array(image))


def test_spearman_names_the_pair_without_a_rank():
    with pytest.raises(ShapeError, match=r"y: nan at pair 1\. It has no rank"):
        Spearman(np.zeros(3), np.array([0.0, NAN, NAN]), np.arange(3))


def test_nothing_to_sum_and_images_that_are_not_drawn_are_refused():
    with pytest.raises(ShapeError, match="parts: none"):
        Total([])
    with pytest.raises(ShapeError, match="belongs to row 7, but images are drawn from 7"):
        Mean(np.ones(2), np.array([0, 7])).replicates(ImageResamples(7))
