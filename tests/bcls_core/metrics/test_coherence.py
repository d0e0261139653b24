from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.metrics import coherence


def by_hand(scores, labels, caption_image, k):
    """Both figures of both directions from sorted lists, tau-b by scipy; None where a query has no value."""
    result = {}
    for direction, s, r, own in (
        ("i2t", scores, labels, lambda q, g: caption_image[g] == q),
        ("t2i", scores.T, labels.T, lambda q, g: caption_image[q] == g),
    ):
        cs, ncs = [], []
        for q in range(len(s)):
            order = sorted(range(s.shape[1]), key=lambda g, q=q: (-s[q, g], g))
            top = order[:k]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tau = stats.kendalltau(s[q, top], r[q, top]).statistic if len(top) > 1 else np.nan
            cs.append(tau)
            others = [g for g in order if not own(q, g)]
            reached = sum(float(r[q, g]) for g in others[:k])
            ideal = sum(sorted((float(r[q, g]) for g in others), reverse=True)[:k])
            ncs.append(reached / ideal if ideal > 0 else np.nan)
        for name, values in ((f"cs{k}", cs), (f"ncs{k}", ncs)):
            kept = [value for value in values if not np.isnan(value)]
            result[f"{direction}/{name}"] = np.mean(kept) if kept else np.nan
            result[f"{direction}/{name}_queries"] = len(kept)
    return result


@st.composite
def cases(draw):
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    images, captions = int(generator.integers(1, 8)), int(generator.integers(1, 40))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = generator.integers(0, levels, (images, captions)).astype(dtype) / 7
    labels = generator.integers(draw(st.sampled_from([-3, 0])), 4, (images, captions)).astype(np.float32) / 3
    return scores, labels, generator.integers(0, images, captions)


@settings(max_examples=80, deadline=None)
@given(case=cases(), k=st.sampled_from([1, 2, 3, 10, 100]), block=st.integers(1, 9))
def test_equals_sorted_lists_and_scipy(case, k, block):
    expected = by_hand(*case, k)
    found = coherence(*case, ks=[k], block=block)
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_cuts_do_not_disturb_one_another():
    generator = np.random.default_rng(3)
    scores, labels = generator.random((4, 200)).round(2), generator.random((4, 200)).round(1)
    caption_image = np.repeat(np.arange(4), 50)
    together = coherence(scores, labels, caption_image, ks=[100, 5, 20])
    alone = [coherence(scores, labels, caption_image, ks=[k]) for k in (5, 20, 100)]
    assert together == {name: value for part in alone for name, value in part.items()}


def test_own_captions_earn_no_gain_and_the_best_order_earns_all_of_it():
    labels = np.array([[9.0, 9.0, 0.5, 0.2, 0.0, 0.1]])
    assert coherence(labels, labels, [0] * 6, ks=[2])["i2t/ncs2_queries"] == 0
    labels = np.vstack([labels, labels])
    found = coherence(labels, labels, [0, 0, 1, 1, 1, 1], ks=[2])
    assert found["i2t/ncs2"] == pytest.approx(1.0)
    backwards = coherence(-labels, labels, [0, 0, 1, 1, 1, 1], ks=[2])
    # Image 0 retrieves the labels 0 and 0.1 where 0.5 and 0.2 were to be had; image 1 has only captions 0 and 1 left.
    assert backwards["i2t/ncs2"] == pytest.approx((0.1 / 0.7 + 1.0) / 2)


def test_without_captions_of_images_there_is_no_gain():
    found = coherence(np.eye(12), np.eye(12))
    assert sorted({name.split("/")[1] for name in found}) == ["cs10", "cs100", "cs100_queries", "cs10_queries"]


def test_infinite_scores_are_ordered():
    scores = np.array([[-np.inf, 0.0, np.inf, -0.0]])
    labels = np.array([[0.1, 0.2, 0.3, 0.2]])
    assert coherence(scores, labels, ks=[4])["i2t/cs4"] == pytest.approx(1.0)


def test_both_zeros_are_one_score_and_the_lower_index_comes_first():
    labels = np.array([[0.2, 0.8, 0.4]], np.float32)
    for scores in ([-0.0, 0.0, 0.0], [0.0, -0.0, -0.0]):
        for dtype in (np.float32, np.float64):
            found = coherence(np.array([scores], dtype), np.vstack([labels]), [0, 0, 0], ks=[1])
            assert found["i2t/ncs1_queries"] == 0  # all are its own
            two = np.vstack([np.array([scores], dtype)] * 2)
            found = coherence(two, np.vstack([labels] * 2), [1, 1, 1], ks=[1])
            assert found["i2t/ncs1"] == pytest.approx(0.2 / 0.8)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="ks: 0, each must be a whole number and at least 1"):
        coherence(np.zeros((2, 3)), np.zeros((2, 3)), ks=[5, 0])
    with pytest.raises(ShapeError, match=r"labels: shape \(3, 2\), but scores have \(2, 3\)"):
        coherence(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="caption 1 names row 5"):
        coherence(np.zeros((2, 3)), np.zeros((2, 3)), [0, 5, 1])
    spoiled = np.zeros((2, 3))
    spoiled[1, 0] = np.nan
    with pytest.raises(ShapeError, match="labels: nan at row 1, column 0"):
        coherence(np.zeros((2, 3)), spoiled)
