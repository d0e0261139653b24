from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.metrics.spearman import spearman

LEVELS = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 2.5, math.inf])


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(LEVELS, st.integers(0, 3)), max_size=12))
def test_equals_scipy_on_places_among_the_levels(pairs):
    x, y = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    constant = len({*x}) < 2 or len({*y}) < 2
    places = np.searchsorted(np.unique(x), x)  # scipy itself gives no figure for infinities
    expected = math.nan if constant else stats.spearmanr(places, y).statistic
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_equals_scipy_on_many_pairs():
    generator = np.random.default_rng(0)
    x = generator.integers(0, 1000, 50_000)
    y = x + generator.integers(0, 2000, 50_000)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(x, x) == 1.0
    assert spearman(x, -x) == -1.0
