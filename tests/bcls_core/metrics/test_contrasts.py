from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bcls_core.metrics.contrasts import Side, contrast
from bcls_core.metrics.resamples import ImageResamples

LEVELS = ImageResamples(2, 4000).levels()
STILL = np.zeros(4000)


def side(estimates, deviation=STILL, is_mean=False):
    estimates = np.array(estimates, dtype=np.float64)
    return Side(estimates, estimates[:, None] + deviation, is_mean)


def ends(found):
    return np.quantile(found, [0.025, 0.975])


def test_seeds_alone_are_students_interval():
    values = [1.0, 2.5, 2.0]
    estimate, found = contrast([side(values)], LEVELS)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert estimate == pytest.approx(np.mean(values))
    assert ends(found) == pytest.approx([*expected], abs=0.01)


def test_seeds_alone_of_two_models_are_welchs_interval():
    first, second = [1.0, 2.5, 2.0], [4.0, 4.1, 4.3, 3.9, 4.2]
    estimate, found = contrast([side(first), side(second)], LEVELS)
    welch = stats.ttest_ind(second, first, equal_var=False)
    assert estimate == pytest.approx(np.mean(second) - np.mean(first))
    assert ends(found) == pytest.approx([*welch.confidence_interval()], abs=0.01)


def test_a_model_of_one_seed_is_taken_as_it_is():
    many = [1.0, 2.5, 2.0]
    alone = stats.ttest_1samp(many, 5.0).confidence_interval()
    for sides, expected in (
        ([side([5.0]), side(many)], [alone.low - 5, alone.high - 5]),
        ([side(many), side([5.0])], [5 - alone.high, 5 - alone.low]),
    ):
        assert ends(contrast(sides, LEVELS)[1]) == pytest.approx(expected, abs=0.01)


def test_one_seed_and_a_median_keep_their_replicates():
    drawn = np.random.default_rng(0).gamma(2, size=4000)
    estimate, found = contrast([side([3.0], drawn)], LEVELS)
    assert estimate == 3.0
    assert (found == 3.0 + ((3.0 + drawn) - 3.0)).all()


def test_noise_of_single_images_is_counted_once():
    generator = np.random.default_rng(1)
    images, noise = generator.normal(0, 2.0, 4000), generator.normal(0, 3.0, (4, 4000))
    shifted = [0.0, 5.0, 10.0, 15.0]  # seeds that vary more than the noise explains
    both = contrast([side(shifted, images + noise)], LEVELS)[1] - contrast([side(shifted)], LEVELS)[1]
    assert both.var() == pytest.approx(4.0, rel=0.08)  # without the 9 / 4 of the noise, which the seeds' part holds


def test_seeds_that_happen_to_agree_take_nothing_from_the_images():
    generator = np.random.default_rng(1)
    drawn = generator.normal(0, 2.0, 4000) + generator.normal(0, 3.0, (2, 4000))
    found = contrast([side([7.0, 7.0], drawn)], LEVELS)[1]
    assert found.var() == pytest.approx(4.0 + 9 / 2, rel=0.08)


def test_what_both_models_find_hard_cancels():
    hard = np.random.default_rng(2).normal(0, 5.0, 4000)
    estimate, found = contrast([side([1.0], hard), side([1.5], hard)], LEVELS)
    assert estimate == 0.5
    assert found == pytest.approx(np.full(4000, 0.5))


def bca(values, counts):
    """Ends of a BCa interval of a mean, acceleration from the jackknife, bias correction of the same size."""
    jackknife = np.array([np.delete(values, index).mean() for index in range(len(values))])
    away = jackknife.mean() - jackknife
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    z = acceleration + stats.norm.ppf([0.025, 0.975])
    return np.quantile(counts @ values / len(values), stats.norm.cdf(acceleration + z / (1 - acceleration * z)))


def test_a_mean_is_corrected_for_skewness():
    counts = np.concatenate([*ImageResamples(40, 4000).blocks()])
    for sign in (1, -1):
        values = sign * np.random.default_rng(3).lognormal(size=40)
        deviation = counts @ values / 40 - values.mean()
        found = contrast([side([values.mean()], deviation, is_mean=True)], LEVELS)[1]
        plain = ends(values.mean() + deviation)
        width = plain[1] - plain[0]
        assert ends(found) == pytest.approx(bca(values, counts), abs=0.04 * width)
        assert (sign * (ends(found) - plain) > 0.05 * width).all()  # towards the long tail
        assert (np.argsort(found) == np.argsort(deviation)).all()
        twice = [side([0.0]), side([values.mean()], deviation, is_mean=True)]
        assert ends(contrast(twice, LEVELS)[1]) == pytest.approx(plain)  # a difference is not


def test_nothing_that_varies_stays_a_point():
    for is_mean in (True, False):
        for estimates in ([2.0], [2.0, 2.0, 2.0]):
            assert (contrast([side(estimates, is_mean=is_mean)], LEVELS)[1] == 2.0).all()


def test_draws_where_a_metric_is_not_defined_are_left_out():
    drawn = np.random.default_rng(4).normal(size=(3, 4000))
    with_gaps = drawn.copy()
    with_gaps[0, ::2] = np.nan
    estimates, kept = [1.0, 2.0, 3.0], slice(1, None, 2)
    found = contrast([side(estimates, with_gaps)], LEVELS)[1]
    assert len(found) == 2000
    expected = Side(np.array(estimates), np.array(estimates)[:, None] + drawn[:, kept], False)
    assert found == pytest.approx(contrast([expected], LEVELS[kept])[1])
    for nothing in (side(estimates, np.full(4000, np.nan)), side([np.nan])):
        assert len(contrast([nothing], LEVELS)[1]) == 0


def test_rounding_is_no_difference():
    deviation = np.where(LEVELS < 0.5, 1e-14, -1e-14)
    estimate, found = contrast([side([70.0]), side([70.00000000000001], deviation)], LEVELS)
    assert estimate == 0.0
    assert (found == 0.0).all()
    assert contrast([side([0.0]), side([1e-30])], LEVELS)[0] == 1e-30
