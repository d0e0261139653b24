from __future__ import annotations

import statistics
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ShapeError
from bcls_core.metrics import retrieval, retrieval_from_encodings


def brute_force(scores, caption_image):
    """Sort every gallery by (score descending, index ascending) and look where the first positive stands."""
    images, captions = scores.shape
    result, recalls = {}, []
    for direction, queries, gallery in (("i2t", images, captions), ("t2i", captions, images)):
        ranks = []
        for q in range(queries):
            value = (lambda g, q=q: scores[q, g]) if direction == "i2t" else (lambda g, q=q: scores[g, q])
            order = sorted(range(gallery), key=lambda g, value=value: (-value(g), g))
            own = [
                place
                for place, g in enumerate(order, 1)
                if (caption_image[g] == q if direction == "i2t" else caption_image[q] == g)
            ]
            ranks += own[:1]
        for k in (1, 5, 10):
            result[f"{direction}/r{k}"] = 100 * sum(rank <= k for rank in ranks) / len(ranks)
            recalls.append(result[f"{direction}/r{k}"])
        result[f"{direction}/medr"] = statistics.median(ranks)
        result[f"{direction}/meanr"] = statistics.mean(ranks)
        result[f"{direction}/queries"] = len(ranks)
        result[f"{direction}/excluded"] = queries - len(ranks)
    return result | {"rsum": sum(recalls)}


@st.composite
def galleries(draw):
    images, captions = draw(st.integers(1, 9)), draw(st.integers(1, 25))
    caption_image = draw(st.lists(st.integers(0, images - 1), min_size=captions, max_size=captions))
    levels = draw(
        st.sampled_from([[0.0], [0.0, 1.0], [-np.inf, -1.0, -0.0, 0.0, 0.5, np.inf], [n / 50 for n in range(50)]])
    )
    scores = [[draw(st.sampled_from(levels)) for _ in range(captions)] for _ in range(images)]
    return np.array(scores), caption_image


@settings(max_examples=100, deadline=None)
@given(
    case=galleries(),
    block=st.integers(1, 30),
    form=st.sampled_from(
        [
            np.asarray,
            lambda a: a.astype(np.float16),
            lambda a: np.asfortranarray(a.astype(np.float32)),
            torch.tensor,
            lambda a: torch.tensor(a).bfloat16(),
            lambda a: torch.tensor(a, requires_grad=True),
        ]
    ),
)
def test_equals_brute_force_with_ties_and_any_number_of_captions(case, block, form):
    scores, caption_image = case
    given_ = form(scores)
    kept = given_.detach().double().numpy() if isinstance(given_, torch.Tensor) else given_.astype(float)
    assert retrieval(given_, caption_image, block=block) == pytest.approx(brute_force(kept, caption_image), rel=1e-12)


def test_hand_made_case():
    scores = np.array([[0.9, 0.1, 0.8, 0.3], [0.9, 0.7, 0.2, 0.3]])
    assert retrieval(scores, np.array([0, 0, 1, 1])) == pytest.approx(
        {
            "i2t/r1": 50.0,  # image 1: captions 0 and 1 stand before its caption 3
            "i2t/r5": 100.0,
            "i2t/r10": 100.0,
            "i2t/medr": 2.0,
            "i2t/meanr": 2.0,
            "i2t/queries": 2,
            "i2t/excluded": 0,
            "t2i/r1": 25.0,  # caption 0 is tied, and the lower index is right; caption 3 is tied, and it is wrong
            "t2i/r5": 100.0,
            "t2i/r10": 100.0,
            "t2i/medr": 2.0,
            "t2i/meanr": 1.75,
            "t2i/queries": 4,
            "t2i/excluded": 0,
            "rsum": 475.0,
        }
    )


def test_constant_scores_are_ranked_by_index():
    metrics = retrieval(np.zeros((20, 100)), np.repeat(np.arange(20), 5))
    assert metrics["t2i/r10"] == 50.0  # the first ten images
    assert metrics["i2t/r10"] == 10.0  # captions 0 to 9 belong to two images


def test_equals_a_stable_argsort_at_the_size_of_a_test_split():
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 200, (300, 1500)).astype(np.float32)
    caption_image = generator.permutation(np.repeat(np.arange(300), 5))
    i2t = np.argsort(-scores, axis=1, kind="stable")
    t2i = np.argsort(-scores, axis=0, kind="stable")
    metrics = retrieval(scores, caption_image)
    for k in (1, 5, 10):
        hits = (caption_image[i2t[:, :k]] == np.arange(300)[:, None]).any(1)
        assert metrics[f"i2t/r{k}"] == pytest.approx(100 * hits.mean())
        assert metrics[f"t2i/r{k}"] == pytest.approx(100 * (t2i[:k] == caption_image).any(0).mean())


def test_an_image_without_captions_asks_nothing_and_still_distracts():
    scores = np.array([[0.5, 0.1], [0.9, 0.8], [0.2, 0.7]])
    metrics = retrieval(scores, [0, 2])
    assert (metrics["i2t/queries"], metrics["i2t/excluded"]) == (2, 1)
    assert metrics["i2t/r1"] == 100.0
    assert metrics["t2i/r1"] == 0.0  # image 1 wins both captions


def test_order_of_the_gallery_does_not_matter_without_ties():
    generator = np.random.default_rng(2)
    scores, caption_image = generator.random((12, 30)), generator.integers(0, 12, 30)
    rows, columns = generator.permutation(12), generator.permutation(30)
    shuffled = np.argsort(rows)[caption_image[columns]]
    assert retrieval(scores[rows][:, columns], shuffled) == retrieval(scores, caption_image)


def test_a_read_only_memory_map_is_enough(tmp_path):
    scores = np.random.default_rng(3).random((9, 18)).astype(np.float32)
    np.save(tmp_path / "scores.npy", scores)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    caption_image = np.repeat(np.arange(9, dtype=np.uint16), 2)
    assert retrieval(mapped, caption_image, block=4) == retrieval(scores, caption_image)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    distinct=st.sampled_from([5, 500]),  # five distinct rows: exact ties wherever they are repeated
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_encodings_equal_the_matrix_with_duplicates(seed, distinct, dtype):
    generator = np.random.default_rng(seed)
    pool = generator.standard_normal((distinct, 7)).astype(dtype)
    images, captions = pool[generator.integers(0, distinct, 30)], pool[generator.integers(0, distinct, 70)]
    caption_image = generator.integers(0, 30, 70)
    matrix = (images.astype(np.float64) @ captions.astype(np.float64).T).astype(np.float32)
    assert retrieval_from_encodings(images, captions, caption_image) == retrieval(matrix, caption_image)


def test_encodings_never_make_the_whole_matrix():
    images, captions = torch.rand(4000, 4).numpy(), torch.rand(12000, 4).numpy()
    retrieval_from_encodings(images[:9], captions[:9], np.arange(9))  # compiled
    tracemalloc.start()
    try:
        retrieval_from_encodings(images, captions, np.arange(12000) % 4000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4000 * 12000 * 4 / 3


@pytest.mark.parametrize("block", [1, 2, 512])
def test_nan_is_named(block):
    scores = np.zeros((5, 6))
    scores[3, 4] = np.nan
    with pytest.raises(ShapeError, match="scores: nan at row 3, column 4"):
        retrieval(scores, [0, 1, 2, 3, 4, 0], block=block)


def test_nan_in_an_encoding_is_named():
    encodings = torch.ones(4, 3)
    spoiled = encodings.clone()
    spoiled[2, 1] = torch.nan
    with pytest.raises(ShapeError, match="caption_encodings: nan at row 2, column 1"):
        retrieval_from_encodings(encodings, spoiled, [0, 1, 2, 3])
    with pytest.raises(ShapeError, match="image_encodings: nan at row 2, column 1"):
        retrieval_from_encodings(spoiled, encodings, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("scores", "caption_image", "message"),
    [
        (np.zeros(3), [0], r"scores: shape \(3,\)"),
        (np.zeros((0, 3)), [0, 0, 0], "at least one row"),
        (np.zeros((2, 3)), [0, 1], r"caption_image: int64 of shape \(2,\), expected \(3,\)"),
        (np.zeros((2, 3)), [0.0, 1.0, 1.0], "caption_image: float64"),
        (np.zeros((2, 3)), [False, True, True], "caption_image: bool"),
        (np.zeros((2, 3)), [0, 2, 1], "caption 1 names row 2, but there are 2 images"),
        (np.zeros((2, 3)), torch.tensor([0, 1, -1]), "caption 2 names row -1"),
    ],
)
def test_mistakes_are_named(scores, caption_image, message):
    with pytest.raises(ShapeError, match=message):
        retrieval(scores, caption_image)


def test_encodings_of_two_widths_are_refused():
    with pytest.raises(ShapeError, match="caption_encodings: 5 dimensions, but image_encodings have 4"):
        retrieval_from_encodings(torch.ones(2, 4), torch.ones(2, 5), [0, 1])
