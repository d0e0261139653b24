from __future__ import annotations

import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.data.ratings import read_ratings, resolve
from bcls_core.errors import ConfigError, ShapeError
from bcls_core.metrics.human import human_relevance, per_image_correlations, rated_pairs


def rho(x, y):
    """Pearson of average ranks, each found by counting; NaN without two pairs or with a constant side."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    ranks = [[sum(b < a for b in z) + (sum(b == a for b in z) + 1) / 2 for a in z] for z in (x, y)]
    return float(np.corrcoef(ranks)[0, 1])


def brute_force(scores, ratings, image, own):
    kept = [pair for pair in range(len(scores)) if not own[pair]]
    values = []
    for one in {image[pair] for pair in kept}:
        of_one = [pair for pair in kept if image[pair] == one]
        values.append(rho([scores[p] for p in of_one], [ratings[p] for p in of_one]))
    defined = [value for value in values if not math.isnan(value)]
    return {
        "spearman": rho([scores[p] for p in kept], [ratings[p] for p in kept]),
        "per_image_spearman": sum(defined) / len(defined) if defined else math.nan,
        "pairs": len(kept),
        "excluded": len(scores) - len(kept),
        "images": len(values),
        "per_image_images": len(defined),
    }


@st.composite
def rated(draw):
    pairs = draw(st.integers(1, 25))
    level = draw(st.sampled_from([st.just(0.5), st.integers(0, 2), st.sampled_from([-np.inf, -1.0, 0.0, np.inf])]))

    def values(of):
        return np.array([draw(of) for _ in range(pairs)], dtype=float)

    image, captioned = (np.array([draw(st.integers(0, 4)) for _ in range(pairs)]) for _ in range(2))
    return values(level), values(st.integers(0, 3)), image, captioned


@settings(max_examples=200, deadline=None)
@given(case=rated(), form=st.sampled_from(["rows", "flags", "texts", "tensors"]))
def test_equals_the_definition_with_ties_and_constant_images(case, form):
    scores, ratings, image, captioned = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if form == "flags":
            result = human_relevance(scores, ratings, image, own=image == captioned)
        elif form == "texts":
            result = human_relevance([*scores], [*ratings], [f"i{i}" for i in image], [f"i{i}" for i in captioned])
        elif form == "tensors":
            result = human_relevance(*(torch.tensor(a) for a in (scores, ratings, image, captioned)))
        else:
            result = human_relevance(scores, ratings, image, captioned)
    assert result == pytest.approx(brute_force(scores, ratings, image, image == captioned), abs=1e-12, nan_ok=True)
    assert all(type(value) is float for value in result.values())


def test_equals_scipy_at_the_size_of_the_real_ratings():
    generator = np.random.default_rng(1)
    ratings = generator.integers(3, 13, 6000) / 3
    scores = (ratings + 3 * generator.standard_normal(6000)).astype(np.float16)
    image = generator.integers(0, 500, 6000)
    own = generator.random(6000) < 0.05
    result = human_relevance(scores, ratings, image, own=own)
    assert result["spearman"] == pytest.approx(stats.spearmanr(scores[~own], ratings[~own]).statistic, abs=1e-12)
    each = [stats.spearmanr(scores[~own & (image == i)], ratings[~own & (image == i)]).statistic for i in range(500)]
    assert result["per_image_spearman"] == pytest.approx(np.mean(each), abs=1e-12)
    assert (result["pairs"], result["excluded"]) == ((~own).sum(), own.sum())


def test_own_captions_alone_would_make_a_high_figure():
    generator = np.random.default_rng(2)
    own = np.arange(400) % 10 == 0
    ratings = np.where(own, 4.0, generator.integers(1, 3, 400))
    scores = np.where(own, 1.0, 0.0) + generator.random(400)
    image = np.arange(400) // 4
    assert stats.spearmanr(scores, ratings).statistic > 0.25
    assert abs(human_relevance(scores, ratings, image, own=own)["spearman"]) < 0.1


def test_only_order_counts_and_pairs_may_come_in_any_order():
    generator = np.random.default_rng(3)
    scores, ratings = generator.standard_normal(90), generator.integers(0, 4, 90)
    image, captioned = generator.integers(0, 9, 90), generator.integers(0, 9, 90)
    plain = human_relevance(scores, ratings, image, captioned)
    order = generator.permutation(90)
    shuffled = human_relevance(np.exp(scores[order]), 10 * ratings[order] - 3, image[order], captioned[order])
    assert shuffled == pytest.approx(plain, abs=1e-12)
    assert human_relevance(-scores, ratings, image, captioned)["spearman"] == pytest.approx(-plain["spearman"])


def test_nothing_left_or_nothing_ordered_is_not_a_number():
    result = human_relevance([0.1, 0.2], [1, 2], [5, 5], [5, 5])
    assert math.isnan(result["spearman"])
    assert math.isnan(result["per_image_spearman"])
    assert [result[key] for key in ("pairs", "excluded", "images", "per_image_images")] == [0, 2, 0, 0]
    for scores, ratings in (([0.1], [1]), ([0.1, 0.1], [1, 2]), ([0.1, 0.2], [1, 1])):
        image = [*range(len(scores))]
        assert math.isnan(human_relevance(scores, ratings, image, own=[False] * len(scores))["spearman"])


def test_pairs_for_intervals_keep_their_order_and_their_image():
    pairs = rated_pairs([0.5, 0.25, 1.0, 0.0], [1, 2, 3, 4], ["b", "a", "b", "b"], ["b", "b", "c", "a"])
    assert (pairs.scores.tolist(), pairs.ratings.tolist()) == ([0.25, 1.0, 0.0], [2.0, 3.0, 4.0])
    assert (pairs.image.tolist(), pairs.excluded) == (["a", "b", "b"], 1)
    images, values = per_image_correlations(pairs)
    assert images.tolist() == ["a", "b"]
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(-1.0)


def test_arguments_are_left_as_they_are():
    arrays = [np.array([0.3, 0.1, 0.2]), np.array([1.0, 2, 3]), np.array([1, 2, 1]), np.array([1, 1, 2])]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    rated_pairs(*arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


def test_exactly_one_word_on_what_to_exclude():
    with pytest.raises(ConfigError, match="neither of caption_image and own given"):
        human_relevance([0.1], [1], [0])
    with pytest.raises(ConfigError, match="both of caption_image and own given"):
        human_relevance([0.1], [1], [0], [0], own=[True])


@pytest.mark.parametrize("name", ["scores", "ratings"])
def test_nan_is_named(name):
    values = {"scores": np.zeros(5), "ratings": np.zeros(5)}
    values[name][3] = np.nan
    with pytest.raises(ShapeError, match=f"{name}: nan at pair 3"):
        human_relevance(**values, image=np.arange(5), own=np.ones(5, bool))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], [], [], []), r"scores: shape \(0,\)"),
        (([[0.1]], [1], [0], [0]), r"scores: shape \(1, 1\)"),
        (([0.1, 0.2], [1], [0, 1], [0, 1]), "ratings: 1 pairs, but scores have 2"),
        (([0.1], [1], [0, 1], [0]), "image: int64 of shape"),
        (([0.1], [1], [0], [0, 1]), "caption_image: int64 of shape"),
        (([0.1], [1], [0.0], [0.0]), "image: float64 of shape"),
        (([0.1], [1], ["0"], [0]), "caption_image: int64, but image is <U1"),
        (([0.1], [1], [0], ["0"]), "caption_image: <U1, but image is int64"),
    ],
)
def test_what_does_not_fit_is_named(arguments, words):
    with pytest.raises(ShapeError, match=words):
        human_relevance(*arguments)


@pytest.mark.parametrize("own", [[0], [True, False], [[True]], ["x"]])
def test_flags_are_flags(own):
    with pytest.raises(ShapeError, match=r"^own: "):
        human_relevance([0.1], [1], [0], own=own)


@pytest.mark.needs("data")
@pytest.mark.parametrize(("name", "kept", "excluded"), [("expert", 1456, 82), ("crowd", 11700, 352)])
def test_own_captions_of_flickr8k_are_excluded(shared_data, name, kept, excluded):
    folder = shared_data / "data" / "flickr8k_3k"
    entries = [e for e in json.loads((folder / "annotations.json").read_text())["images"] if e["split"] == "test"]
    sentences = [[set(s["tokens"]) for s in e["sentences"]] for e in entries]
    ids = np.array([s["sentid"] for e in entries for s in e["sentences"]])
    image = np.repeat(np.arange(len(entries)), [len(own) for own in sentences])
    rows = resolve(read_ratings(folder / f"{name}_ratings.tsv"), [e["filename"] for e in entries], ids, image)
    captions = [*itertools.chain(*sentences)]

    def overlap(i, c):
        return max(len(own & captions[c]) / len(own | captions[c]) for own in sentences[i])

    scores = [overlap(i, c) for i, c in zip(rows.image_rows, rows.caption_rows, strict=True)]
    by_row = human_relevance(scores, rows.ratings, rows.image_rows, image[rows.caption_rows])
    assert human_relevance(scores, rows.ratings, rows.image_rows, own=rows.own) == by_row
    assert (by_row["pairs"], by_row["excluded"]) == (kept, excluded)
    others = ~rows.own
    expected = stats.spearmanr(np.array(scores)[others], rows.ratings[others]).statistic
    assert by_row["spearman"] == pytest.approx(expected, abs=1e-12)
    assert 0.2 < by_row["spearman"] < stats.spearmanr(scores, rows.ratings).statistic
    # People judged this caption, not the image's next one: its words agree better.
    following = rows.caption_rows // 5 * 5 + (rows.caption_rows + 1) % 5
    others_scores = [overlap(i, c) for i, c in zip(rows.image_rows, following, strict=True)]
    assert human_relevance(others_scores, rows.ratings, rows.image_rows, own=rows.own)["spearman"] < by_row["spearman"]
