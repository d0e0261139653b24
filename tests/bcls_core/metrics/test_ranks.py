from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ShapeError
from bcls_core.metrics import ranks as ranks_module
from bcls_core.metrics.ranks import Asked, Positives, best_ranks, positive_ranks, positives_of_captions, ranks_of
from bcls_core.metrics.strips import Products


def places(scores, positives):
    """Where each positive stands in a sort of its query's gallery by (score descending, index ascending)."""
    found = []
    for query, entry in zip(positives.query, positives.entries, strict=True):
        order = sorted(range(scores.shape[1]), key=lambda g, query=query: (-scores[query, g], g))
        found.append(order.index(entry))
    return found


@st.composite
def positives_in(draw, images, captions):
    pairs = draw(st.sets(st.tuples(st.integers(0, images - 1), st.integers(0, captions - 1))))
    query, entry = np.array([*pairs], dtype=np.int64).reshape(-1, 2).T
    return Positives.of(query, entry, images)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_rank_is_the_place_in_a_stable_descending_sort(data):
    images, captions = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    value = st.sampled_from([-float("inf"), -1.0, -0.0, 0.0, 1.0])
    scores = np.array([[data.draw(value) for _ in range(captions)] for _ in range(images)])
    i2t, t2i = data.draw(positives_in(images, captions)), data.draw(positives_in(captions, images))
    found = positive_ranks(scores, i2t, t2i, block=data.draw(st.integers(1, 7)))
    assert found[0].tolist() == places(scores, i2t)
    assert found[1].tolist() == places(scores.T, t2i)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_ranks_of_products_are_exact_whatever_is_proposed(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    images, captions, dimensions = (int(generator.integers(1, high)) for high in (30, 60, 20))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    pool = generator.standard_normal((int(generator.integers(1, 6)), dimensions))
    # Repeated rows tie exactly; rows a float32 rounding apart must not.
    noise = data.draw(st.sampled_from([0.0, 1e-7, 1e-3, 1.0]))
    image_encodings, caption_encodings = (
        (pool[generator.integers(0, len(pool), n)] * (1 + noise * generator.standard_normal((n, 1)))).astype(dtype)
        for n in (images, captions)
    )
    products = Products(image_encodings, caption_encodings)
    everything = [np.repeat(np.arange(images), captions), np.tile(np.arange(captions), images)]
    scores = products.pairs(*everything).reshape(images, captions)
    i2t, t2i = Positives.of(*everything, images), Positives.of(*everything[::-1], captions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks_module, "_TILE", data.draw(st.tuples(st.integers(1, 40), st.integers(1, 70))))
        found = positive_ranks(products, i2t, t2i)
    assert found[0].tolist() == places(scores, i2t)
    assert found[1].tolist() == places(scores.T, t2i)


def test_a_large_gallery_in_chunks_and_tiles_equals_a_sort():
    generator = np.random.default_rng(4)
    pool = generator.standard_normal((2000, 6)).astype(np.float16)
    images, captions = pool[generator.integers(0, 2000, 1500)], pool[generator.integers(0, 2000, 9000)]
    scores = (images.astype(np.float64) @ captions.astype(np.float64).T).astype(np.float32)
    i2t, t2i = positives_of_captions(generator.integers(0, 1500, 9000), 1500)
    found = positive_ranks(Products(images, captions), i2t, t2i)
    for ranks, positives, matrix in ((found[0], i2t, scores), (found[1], t2i, scores.T)):
        order = np.argsort(-matrix, axis=1, kind="stable")
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.arange(order.shape[1])[None, :], axis=1)
        assert (ranks == place[positives.query, positives.entries]).all()
    again = positive_ranks(scores, i2t, t2i)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


def test_extreme_magnitudes_are_told_apart_or_tie_exactly():
    tiny = np.array([[1e-30, 0.0], [4e-30, 0.0]], np.float32)
    ones = np.array([[1e-15, 0.0], [1.0, 0.0]], np.float32)
    i2t, t2i = Positives.of([0, 1], [0, 0], 2), Positives.of([0, 0, 1], [0, 1, 0], 2)
    found = positive_ranks(Products(tiny, ones), i2t, t2i)
    assert found[0].tolist() == [1, 1]
    assert found[1].tolist() == [1, 0, 1]
    long = np.array([[1e18], [-1e18]], np.float32)
    assert positive_ranks(Products(long, long), i2t, t2i)[1].tolist() == [0, 1, 1]


def test_best_rank_of_each_query_and_none_without_positives():
    scores = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    i2t, t2i = Positives.of([0, 0], [0, 2], 2), Positives.of([2, 0], [1, 0], 3)
    found = best_ranks(scores, i2t, t2i)
    assert found[0].tolist() == [1, -1]
    assert found[1].tolist() == [1, -1, 1]
    nobody = Positives.of([], [], 2), Positives.of([], [], 3)
    assert [ranks.tolist() for ranks in best_ranks(scores, *nobody)] == [[-1, -1], [-1, -1, -1]]


def test_each_strip_is_asked_for_once():
    class Asked:
        images, captions = 5, 3
        asked: list[tuple[str, int, int]] = []  # noqa: RUF012

        def image_rows(self, start, stop):
            self.asked.append(("images", start, stop))
            return np.zeros((stop - start, 3))

        def caption_rows(self, start, stop):
            self.asked.append(("captions", start, stop))
            return np.zeros((stop - start, 5))

    i2t, t2i = positives_of_captions([4, 0, 0], 5)
    ranks = best_ranks(Asked(), i2t, t2i, block=2)
    assert Asked.asked == [
        ("images", 0, 2),
        ("images", 2, 4),
        ("images", 4, 5),
        ("captions", 0, 2),
        ("captions", 2, 3),
    ]
    assert ranks[0].tolist() == [1, -1, -1, -1, 0]
    assert ranks[1].tolist() == [4, 0, 0]


def test_pairs_in_any_order_and_twice():
    positives = Positives.of([2, 0, 2, 2], [5, 1, 3, 5], 4)
    assert positives.starts.tolist() == [0, 1, 1, 3, 3]
    assert positives.entries.tolist() == [1, 3, 5]
    assert positives.query.tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    ("query", "entry", "message"),
    [([0, 1], [0], "2,. queries and .1,. entries"), ([3], [0], "query 3 of 3"), ([-1], [0], "query -1 of 3")],
)
def test_wrong_pairs_are_named(query, entry, message):
    with pytest.raises(ShapeError, match=message):
        Positives.of(query, entry, 3)


def test_positives_of_another_gallery_are_refused():
    i2t, t2i = positives_of_captions([0, 1, 1], 2)
    with pytest.raises(ShapeError, match="i2t positives: 2 queries and entries up to 2"):
        positive_ranks(np.zeros((3, 3)), i2t, t2i)
    with pytest.raises(ShapeError, match="the scores have 2 queries and 2 entries"):
        positive_ranks(np.zeros((2, 2)), i2t, t2i)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_torch_settings_of_precision_do_not_reach_ranks(precision):
    generator = np.random.default_rng(5)
    encodings = generator.standard_normal((300, 64)).astype(np.float32)
    i2t, t2i = positives_of_captions(np.arange(300), 300)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = positive_ranks(Products(encodings, encodings[::-1].copy()), i2t, t2i)
    finally:
        torch.set_float32_matmul_precision(before)
    scores = encodings.astype(np.float64) @ encodings[::-1].astype(np.float64).T
    assert found[0].tolist() == places(scores.astype(np.float32), i2t)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), products=st.booleans(), best=st.booleans())
def test_parts_of_a_gallery_are_galleries_of_their_own(seed, products, best):
    generator = np.random.default_rng(seed)
    images, captions, parts = (int(generator.integers(1, high)) for high in (15, 40, 4))
    pool = generator.integers(-2, 3, (6, 3)).astype(np.float32)
    encodings = pool[generator.integers(0, 6, images)], pool[generator.integers(0, 6, captions)]
    scores = encodings[0] @ encodings[1].T
    image_part, caption_part = (generator.integers(-1, parts, n).astype(np.int32) for n in (images, captions))
    query, entry = np.nonzero((image_part[:, None] == caption_part) & (generator.random(scores.shape) < 0.4))
    own = Positives.of(query, entry, images), Positives.of(entry, query, captions)
    asked = Asked(own[0], image_part, caption_part, best), Asked(own[1], caption_part, image_part, best)
    given_ = Products(*encodings) if products else scores
    # Asked together with the whole gallery, which must not disturb them.
    (by_image, _), (_, by_caption) = ranks_of(given_, [asked[0], Asked(own[0])], [Asked(own[1]), asked[1]])
    for ranks, positives, matrix, query_part, entry_part in (
        (by_image, own[0], scores, image_part, caption_part),
        (by_caption, own[1], scores.T, caption_part, image_part),
    ):
        expected = []
        for q, e in zip(positives.query, positives.entries, strict=True):
            inside = np.flatnonzero(entry_part == query_part[q])
            order = sorted(inside, key=lambda g, q=q, matrix=matrix: (-matrix[q, g], g))
            expected.append(order.index(e))
        if best:
            expected = [
                min((rank for rank, p in zip(expected, positives.query, strict=True) if p == q), default=-1)
                for q in range(positives.queries)
            ]
        assert ranks.tolist() == expected


@pytest.mark.parametrize("scale", [1e-300, 1e-39, 1e-20, 1e20, 1e39, 1e150])
def test_encodings_far_outside_float32_have_exact_ranks(scale):
    generator = np.random.default_rng(7)
    images, captions = generator.standard_normal((20, 8)), generator.standard_normal((60, 8))
    i2t, t2i = positives_of_captions(np.arange(60) % 20, 20)
    expected = positive_ranks((images @ captions.T).astype(np.float32), i2t, t2i)
    far = Products(images * scale, captions / scale) if scale > 1e-200 else Products(images * 1e-150, captions * 1e150)
    found = positive_ranks(far, i2t, t2i)
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))


def test_strips_of_one_s_own_are_checked_like_a_matrix():
    class Own:
        images, captions = 2, 3

        def __init__(self, values):
            self.values = values

        def image_rows(self, start, stop):
            return self.values[start:stop]

        def caption_rows(self, start, stop):
            return self.values.T[start:stop]

    values = np.array([[0.5, 0.1, 0.2], [0.9, 0.8, 0.7]])
    i2t, t2i = positives_of_captions([0, 1, 1], 2)
    expected = positive_ranks(values, i2t, t2i)
    for form in (values.astype(np.float16), torch.tensor(values), values[:, ::-1].copy()[:, ::-1]):
        found = positive_ranks(Own(form), i2t, t2i)
        assert all((one == other).all() for one, other in zip(found, expected, strict=True))
    spoiled = values.copy()
    spoiled[1, 2] = np.nan
    with pytest.raises(ShapeError, match="scores: nan at row 1, column 2"):
        positive_ranks(Own(spoiled), i2t, t2i)
