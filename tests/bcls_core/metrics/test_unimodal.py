from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bcls_core.data.ratings import read_caption_pairs
from bcls_core.errors import ShapeError
from bcls_core.metrics import unimodal
from bcls_core.metrics.unimodal import (
    caption_similarity,
    caption_to_caption,
    image_to_image,
    same_group_ranks,
    same_group_retrieval,
)


def brute_force(encodings, groups):
    """Sort all others by (score descending, index ascending) and look where the first of the group stands."""
    ranks = []
    for q in range(len(encodings)):
        score = [sum(a * b for a, b in zip(encodings[q], other, strict=True)) for other in encodings]
        order = sorted((g for g in range(len(encodings)) if g != q), key=lambda g, score=score: (-score[g], g))
        ranks.append(next((place for place, g in enumerate(order) if groups[g] == groups[q]), -1))
    return ranks


@st.composite
def galleries(draw):
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    groups = draw(st.permutations([group for group, size in enumerate(sizes) for _ in range(size)]))
    dimensions = draw(st.sampled_from([1, 3, 9]))
    vector = st.lists(st.integers(-3, 3), min_size=dimensions, max_size=dimensions)
    pool = draw(st.lists(vector, min_size=1, max_size=5))
    return [draw(st.sampled_from(pool)) for _ in groups], groups


@settings(max_examples=200, deadline=None)
@given(
    case=galleries(),
    pairs=st.integers(1, 60),
    form=st.sampled_from(
        [
            lambda a: np.array(a, dtype=np.float16),
            lambda a: np.array(a, dtype=np.float64),
            lambda a: np.asfortranarray(np.array(a, dtype=np.float32)),
            lambda a: torch.tensor(a).bfloat16(),
            lambda a: torch.tensor(a, dtype=torch.float32, requires_grad=True),
        ]
    ),
)
def test_equals_brute_force_with_heavy_ties(case, pairs, form):
    encodings, groups = case
    expected = brute_force(encodings, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unimodal, "_PAIRS", pairs)
        if max(expected) < 0:
            with pytest.raises(ShapeError, match="none of the"):
                same_group_ranks(form(encodings), groups)
            return
        ranks = same_group_ranks(form(encodings), groups)
        result = same_group_retrieval(form(encodings), groups)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == expected
    asked = [rank for rank in expected if rank >= 0]
    for k in (1, 5, 10):
        assert result.pop(f"r{k}") == pytest.approx(100 * sum(rank < k for rank in asked) / len(asked), abs=1e-12)
    assert result == {"queries": len(asked), "excluded": len(expected) - len(asked)}


def test_hand_made_case_leaves_the_query_out():
    encodings = np.array([[1.0, 0], [0.8, 0.6], [0, 1.0], [0.6, 0.8], [-1.0, 0]])
    groups = ["x", "y", "x", "y", "z"]
    # From row 0: 1, 3, 2 (its own), 4. From 1: 3 (its own). From 2: 3, 1, 0. From 3: 1. Row 4 asks nothing.
    assert same_group_ranks(encodings, groups).tolist() == [2, 0, 2, 0, -1]
    assert image_to_image(encodings, groups) == {"r1": 50.0, "r5": 100.0, "r10": 100.0, "queries": 4, "excluded": 1}


def test_a_row_alone_in_its_group_still_distracts():
    encodings = np.array([[1.0, 0], [0.6, 0.8], [1.0, 0]])
    assert same_group_ranks(encodings, [9, 7, 7]).tolist() == [-1, 1, 1]
    assert caption_to_caption(encodings, [9, 7, 7])["r1"] == 0.0


def test_equal_encodings_are_ranked_by_index_whether_the_query_stands_before_or_behind():
    # All others tie: the first of the group has as many before it as lower indices that are not the query.
    assert same_group_ranks(np.ones((6, 3)), [0, 1, 2, 0, 1, 2]).tolist() == [2, 3, 4, 0, 1, 2]


def test_a_short_query_may_stand_behind_its_companions():
    encodings = np.array([[4.0], [1.0], [2.0], [3.0]])  # inner products, not cosines: from row 1 row 0 is nearest
    assert same_group_ranks(encodings, [0, 1, 1, 0]).tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize("groups", [[5, 5], [0] * 9])
def test_all_of_one_group_find_each_other(groups):
    encodings = np.random.default_rng(0).standard_normal((len(groups), 4))
    assert same_group_ranks(encodings, groups).tolist() == [0] * len(groups)


def test_equals_a_sort_of_the_matrix_at_some_hundred_rows_with_duplicates():
    generator = np.random.default_rng(1)
    pool = generator.standard_normal((150, 24)).astype(np.float16)
    encodings = pool[generator.integers(0, 150, 400)]
    groups = generator.integers(0, 90, 400)
    wide = encodings.astype(np.float64)
    scores = (wide @ wide.T).astype(np.float32)
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :-1]
    hits = groups[order] == groups[:, None]
    expected = np.where(hits.any(1), hits.argmax(1), -1)
    assert (expected == -1).any()
    assert len(np.unique(expected)) > 20
    assert np.array_equal(same_group_ranks(encodings, groups), expected)
    assert np.array_equal(same_group_ranks(torch.tensor(encodings), groups.astype(str)), expected)


def test_order_of_the_rows_does_not_matter_without_ties():
    generator = np.random.default_rng(2)
    encodings, groups = generator.standard_normal((60, 8)), generator.integers(0, 20, 60)
    order = generator.permutation(60)
    assert np.array_equal(same_group_ranks(encodings[order], groups[order]), same_group_ranks(encodings, groups)[order])


def test_nothing_to_ask_is_an_error():
    for rows in (1, 4):
        with pytest.raises(ShapeError, match=f"groups: none of the {rows} groups has a second row"):
            same_group_retrieval(np.ones((rows, 2)), np.arange(rows))


def test_groups_must_be_ids_of_the_rows():
    with pytest.raises(ShapeError, match=r"groups: float64 of shape \(2,\)"):
        same_group_ranks(np.ones((2, 2)), [0.5, 0.5])
    with pytest.raises(ShapeError, match=r"groups: int64 of shape \(3,\), expected \(2,\)"):
        same_group_ranks(np.ones((2, 2)), [0, 0, 0])
    with pytest.raises(ShapeError, match="encodings: shape"):
        same_group_ranks(np.ones(2), [0, 0])


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_what_has_no_product_is_named(value, word, kind):
    encodings = np.ones((4, 3), np.float32)
    encodings[2, 1] = value
    with pytest.raises(ShapeError, match=f"^encodings: {word} at row 2, column 1"):
        same_group_ranks(kind(encodings), [0, 0, 1, 1])
    with pytest.raises(ShapeError, match=f"^second_encodings: {word} at row 2, column 1"):
        caption_similarity(np.ones((4, 3)), kind(encodings), np.arange(4))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_caption_similarity_equals_the_definition(data):
    pairs, pool = data.draw(st.integers(1, 12)), [[1, 0], [2, 0], [1, 1], [0, 3], [-1, 1]]
    first, second = (data.draw(st.lists(st.sampled_from(pool), min_size=pairs, max_size=pairs)) for _ in range(2))
    human = data.draw(st.lists(st.integers(0, 3), min_size=pairs, max_size=pairs))
    # sign(cos) cos^2 is a fraction of small whole numbers: exact, and ordered as the cosine is
    squares = []
    for a, b in zip(first, second, strict=True):
        dot = a[0] * b[0] + a[1] * b[1]
        squares.append(dot * abs(dot) / ((a[0] ** 2 + a[1] ** 2) * (b[0] ** 2 + b[1] ** 2)))
    constant = len(set(squares)) == 1 or len(set(human)) == 1
    expected = np.nan if constant else stats.spearmanr(squares, human).statistic
    result = caption_similarity(np.array(first, np.float16), torch.tensor(second).float(), human)
    assert result == pytest.approx({"spearman": expected, "pairs": pairs}, abs=1e-12, nan_ok=True)


def test_equals_scipy_and_lengths_do_not_count():
    generator = np.random.default_rng(3)
    first = generator.standard_normal((500, 32))
    second = first + 2 * generator.standard_normal((500, 32))
    human = generator.random(500)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(first, second, strict=True)]
    expected = pytest.approx(stats.spearmanr(cosines, human).statistic, abs=1e-12)
    assert caption_similarity(first, second, human)["spearman"] == expected
    lengths = 10.0 ** generator.integers(-300, 300, (500, 1))
    assert caption_similarity(first * lengths, second, human)["spearman"] == expected


def test_a_caption_without_direction_is_refused():
    encodings = np.ones((3, 2))
    encodings[1] = 0
    with pytest.raises(ShapeError, match="first_encodings: row 1 is zero"):
        caption_similarity(encodings, np.ones((3, 2)), [1, 2, 3])


def test_similarity_shapes_must_agree():
    with pytest.raises(ShapeError, match=r"second_encodings: shape \(3, 2\), but first_encodings have \(2, 2\)"):
        caption_similarity(np.ones((2, 2)), np.ones((3, 2)), [1, 2])
    with pytest.raises(ShapeError, match=r"human: shape \(3,\), expected \(2,\)"):
        caption_similarity(np.ones((2, 2)), np.ones((2, 2)), [1, 2, 3])
    with pytest.raises(ShapeError, match="human: nan at row 1"):
        caption_similarity(np.ones((2, 2)), np.ones((2, 2)), [1, np.nan])


@pytest.mark.needs("data")
def test_bags_of_words_agree_with_people_on_crisscrossed_captions(shared_data):
    pairs = read_caption_pairs(shared_data / "data" / "cxc_sts_val.csv.gz")
    words = {word: n for n, word in enumerate({w for text in pairs.first + pairs.second for w in text.lower().split()})}

    def bags(texts):
        result = np.zeros((len(texts), len(words)), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                result[row, words[word]] += 1
        return result

    result = caption_similarity(bags(pairs.first), bags(pairs.second), pairs.scores)
    assert result["pairs"] == 3309
    assert 0.3 < result["spearman"] < 0.8
