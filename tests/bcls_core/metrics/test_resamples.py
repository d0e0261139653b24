from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.metrics.resamples import ImageResamples


@settings(max_examples=30, deadline=None)
@given(images=st.integers(2, 40), resamples=st.integers(1, 30), seed=st.integers(0, 5), length=st.integers(1, 40))
def test_draws_do_not_depend_on_the_length_of_a_block(images, resamples, seed, length):
    draws = ImageResamples(images, resamples, seed)
    counts = np.concatenate([*draws.blocks(length)])
    assert counts.shape == (resamples, images)
    assert (counts.sum(1) == images).all()
    assert (counts == np.concatenate([*draws.blocks()])).all()
    assert (counts == np.concatenate([*ImageResamples(images, resamples, seed).blocks(1)])).all()


def test_each_image_is_drawn_as_often_as_any_other():
    counts = np.concatenate([*ImageResamples(50, 4000).blocks()])
    assert np.abs(counts.mean(0) - 1).max() < 0.08  # five standard errors
    assert counts.var(0) == pytest.approx(np.full(50, 49 / 50), abs=0.15)
    assert np.corrcoef(counts[:-1, 0], counts[1:, 0])[0, 1] == pytest.approx(0, abs=0.08)


def test_another_seed_is_another_draw():
    first, second = (next(ImageResamples(30, 5, seed).blocks()) for seed in (0, 1))
    assert (first != second).any(1).all()


def test_a_block_is_bounded():
    assert [len(block) for block in ImageResamples(2**19, 5).blocks()] == [2, 2, 1]
    assert [len(block) for block in ImageResamples(2**21, 2).blocks()] == [1, 1]


def test_levels_are_even_and_tell_nothing_of_the_images():
    draws = ImageResamples(20, 1000, seed=3)
    levels = draws.levels()
    assert np.sort(levels) == pytest.approx((np.arange(1000) + 0.5) / 1000)
    assert (levels == ImageResamples(7, 1000, seed=3).levels()).all()
    counts = np.concatenate([*draws.blocks()])
    assert np.abs([np.corrcoef(levels, column)[0, 1] for column in counts.T]).max() < 0.15
    assert (levels != ImageResamples(20, 1000, seed=4).levels()).any()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ShapeError, match="images: 1, but an interval needs at least 2"):
        ImageResamples(1)
    for resamples, seed in ((0, 0), (5, -1)):
        with pytest.raises(ConfigError, match=f"resamples: {resamples}, seed: {seed}"):
            ImageResamples(5, resamples, seed)
