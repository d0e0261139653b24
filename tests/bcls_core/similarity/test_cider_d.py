"""CIDEr-D against a direct transcription of its formula, and against the package that publishes it."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import StoreError
from bcls_core.similarity import CaptionRelevance, GalleryCaptions, ImageCaptions
from bcls_core.similarity.cider import Cider
from bcls_core.similarity.cider_d import CiderD, ClippedSimilarity
from bcls_core.similarity.label_tables import representations_table
from bcls_core.similarity.row_book import COUNTED_TFIDF, open_book
from bcls_core.similarity.tokens import tokenize

WORDS = ["a", "the", "dog", "cat", "red", "bus", "runs", "on", "street"]
captions_of = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
SEEN = ["a dog runs on the street", "the red bus", "a cat on a red bus", "the dog", "a street", "a a a dog dog runs"]
IMAGES = [1, 1, 2, 3, 3, 4]


def slow_cider_d(candidate: str, reference: str, seen: list[str], images: list[int]) -> float:
    """One pair, one n-gram at a time, with dictionaries only, without the factor 10."""

    def grams(caption: str, n: int) -> list[tuple[str, ...]]:
        words = caption.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    total, value = len(set(images)), 0.0
    for n in (1, 2, 3, 4):

        def vector(caption: str, n: int = n) -> dict[tuple[str, ...], float]:
            weights = {}
            for gram, count in Counter(grams(caption, n)).items():
                df = len({image for other, image in zip(seen, images, strict=True) if gram in grams(other, n)})
                weights[gram] = count * math.log(total / max(1, df))
            return weights

        x, y = vector(candidate), vector(reference)
        norms = math.sqrt(sum(w * w for w in x.values())) * math.sqrt(sum(w * w for w in y.values()))
        if norms > 0:
            value += sum(min(x[gram], w) * w for gram, w in y.items() if gram in x) / norms / 4
    return value * math.exp(-((len(candidate.split()) - len(reference.split())) ** 2) / (2 * 6**2))


@given(st.lists(captions_of, min_size=1, max_size=6), st.lists(captions_of, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_values_are_the_formula_on_seen_and_unseen_text(a: list[str], b: list[str]) -> None:
    a, b = [*a, "a dog dog on zebra zebra zebra"], [*b, "zebra zebra dog on a dog", SEEN[-1]]
    cider_d = CiderD.fit(SEEN, IMAGES)
    matrix = cider_d.matrix(a, b)
    np.testing.assert_allclose(matrix, [[slow_cider_d(x, y, SEEN, IMAGES) for y in b] for x in a], rtol=0, atol=1e-6)
    assert matrix.dtype == np.float32
    assert ((matrix >= 0) & (matrix <= 1)).all()
    left, right = np.divmod(np.arange(matrix.size), len(b))
    assert cider_d.pairs([a[i] for i in left], [b[j] for j in right]).tobytes() == matrix.tobytes()
    assert (matrix <= Cider(cider_d.frequencies).matrix(a, b)).all()


def test_a_word_said_twice_gains_nothing_and_the_sides_differ() -> None:
    cider_d = CiderD.fit(["red bus", "two dogs", "a cat"], [1, 2, 3])
    penalty = math.exp(-1 / 72)
    values = cider_d.pairs(["red red", "red", "red"], ["red", "red red", "red"])
    np.testing.assert_allclose(values, [0.25 * penalty / 2, 0.25 * penalty, 0.25], atol=1e-6)
    assert cider_d.pairs(["red bus " * 2], ["red bus " * 2]) == [1.0]
    assert cider_d.matrix(["", "red"], ["", "red"])[0].tolist() == [0.0, 0.0]


def test_many_repeats_stay_close_to_the_formula() -> None:
    a, b = "dog " * 300 + "runs " * 7, "dog " * 299 + "runs " * 11
    assert CiderD.fit(SEEN, IMAGES).pairs([a], [b])[0] == pytest.approx(slow_cider_d(a, b, SEEN, IMAGES), abs=1e-6)


def test_penalties_are_the_nearest_float64_numbers() -> None:
    found = ClippedSimilarity.penalties
    assert len(found) == 88
    assert found[-1] == 0
    for distance in range(87):
        x, exact, term = Fraction(distance * distance, 72), Fraction(0), Fraction(1)
        for i in range(1, 600):  # the series of exp(x), whose terms are all positive; cut off where 10^-60 is left
            exact, term = exact + term, Fraction(round(term * x / i * 2**260), 2**260)
        assert abs(Fraction(float(found[distance])) - 1 / exact) <= Fraction(math.ulp(found[distance])) * 500001 / 10**6
    assert np.float32(math.exp(-(87**2) / 72)) == 0
    assert np.float32(found[86]) > 0


def test_sums_are_exact() -> None:
    """Shares are multiples of 2^-24, so float64 sums of products equal the rational ones: no order can matter."""
    texts = [*SEEN, "a a a a a dog dog", "dog dog dog a a a runs runs"]
    cider_d = CiderD.fit(SEEN, IMAGES)
    rows = cider_d._rows(texts)
    for i in range(len(texts)):
        for j in range(len(texts)):
            total = Fraction(0)
            x, y = rows[[i]], rows[[j]]
            for column in set(x.weights.indices) & set(y.weights.indices):
                (u,), (v,) = (side.weights.data[side.weights.indices == column] for side in (x, y))
                (c,), (d,) = (side.counts.data[side.counts.indices == column] for side in (x, y))
                share = np.rint(float(u) * min(c, d) / c * 2**24) / 2**24
                total += Fraction(share) * Fraction(float(v))
            assert Fraction(float(total)) == total
            penalty = float(ClippedSimilarity.penalties[abs(int(x.lengths[0]) - int(y.lengths[0]))])
            value = np.float32(min(float(total) / 4, 1.0) * penalty)
            assert cider_d.similarity.pairs(x, y).tolist() == [value]
            assert cider_d.similarity.matrix(rows, rows)[i, j] == value


def test_captions_are_candidates_in_top_k() -> None:
    dice = np.random.default_rng(0)
    captions = [" ".join(dice.choice(WORDS, size=dice.integers(1, 9))) for _ in range(80)]
    captions[40:] = [captions[i] for i in dice.integers(0, 40, 40)]
    groups = dice.integers(0, 20, 80)
    cider_d = CiderD.fit(SEEN, IMAGES)
    scores, ids = cider_d.top_k(captions, 9, exclude=groups)
    matrix = cider_d.matrix(captions, captions)
    matrix[groups[:, None] == groups] = -np.inf
    order = np.argsort(-matrix, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(ids, order)
    assert scores.tobytes() == np.take_along_axis(matrix, order, axis=1).tobytes()


def test_stored_rows_give_the_same_numbers() -> None:
    cider_d = CiderD.fit(SEEN, IMAGES)
    rows, ids = cider_d.represent(SEEN), np.array([9, 4, 7, 1, 30, 2])
    parts = [slice(0, 2), slice(2, 6)]
    tables = [
        representations_table(COUNTED_TFIDF, pa.array(ids[p]), pa.array(["train"] * len(ids[p])), rows[p])
        for p in parts
    ]
    book = open_book(COUNTED_TFIDF, tables)
    back = book.take(ids)
    similarity = cider_d.similarity
    assert similarity.matrix(back, back).tobytes() == cider_d.matrix(SEEN, SEEN).tobytes()
    assert similarity.matrix(book.take(ids[[3]]), back).tobytes() == cider_d.matrix([SEEN[3]], SEEN).tobytes()
    np.testing.assert_array_equal(similarity.top_k(back, 3)[1], cider_d.top_k(SEEN, 3)[1])
    own = np.eye(2, 6, dtype=bool)
    relevance = CaptionRelevance(similarity).rows(
        ImageCaptions(back[0:4], np.array([0, 1, 4])), GalleryCaptions(back, own)
    )
    expected = cider_d.matrix(SEEN, SEEN)
    # The caption judged is the candidate, the image's captions are its references.
    np.testing.assert_array_equal(relevance[1, 2:], expected[2:, 1:4].max(axis=1))
    with pytest.raises(StoreError, match="'a zebra' holds 'zebra'"):
        cider_d.represent(["the dog", "a zebra"])


def test_golden() -> None:
    """Pins CIDER_D_VERSION 1: raise the version with any change here."""
    cider_d = CiderD.fit(SEEN, IMAGES)
    rows = cider_d.represent(["the dog", "a a a dog dog runs"])
    assert rows.lengths.tolist() == [2, 6]
    assert rows.counts.data.tolist() == [1, 1, 1, 2, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    weights = Cider(cider_d.frequencies).represent(["the dog", "a a a dog dog runs"])
    for part in ("indptr", "indices", "data"):
        assert getattr(rows.weights, part).tobytes() == getattr(weights, part).tobytes()
    values = cider_d.pairs(["the dog dog", SEEN[-1], SEEN[0]], [SEEN[0], SEEN[0], SEEN[-1]])
    assert [float(value).hex() for value in values] == [
        "0x1.8f0df20000000p-4",
        "0x1.1c711a0000000p-3",
        "0x1.3daa3c0000000p-3",
    ]


@pytest.mark.needs("data")
def test_values_are_those_of_the_reference_implementation(shared_data: Path) -> None:
    """The package `pycocoevalcap` scores a candidate by the mean over its image's references, given as tokens."""
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer", reason="pip install --no-deps pycocoevalcap==1.2")
    table = pq.read_table(shared_data / "data" / "flickr30k_captions.parquet").slice(0, 5_000)
    captions = np.array(table.column("caption").to_pylist(), dtype=object).reshape(-1, 5)
    assert len(set(table.column("image_id").to_pylist())) == len(captions)
    dice = np.random.default_rng(0)
    rows = np.arange(len(captions))
    candidates = captions[np.where(dice.random(len(rows)) < 0.5, rows, dice.permutation(rows)), 0]
    references = captions[:, 1:]
    theirs = scorer.CiderScorer()
    for candidate, of_image in zip(candidates, references, strict=True):
        theirs += (" ".join(tokenize(candidate)), [" ".join(tokenize(reference)) for reference in of_image])
    cider_d = CiderD.fit(references.reshape(-1).tolist(), np.repeat(rows, 4))
    found = cider_d.pairs(np.repeat(candidates, 4).tolist(), references.reshape(-1).tolist())
    expected = theirs.compute_score()[1] / 10
    np.testing.assert_allclose(found.reshape(-1, 4).mean(axis=1, dtype=np.float64), expected, rtol=0, atol=1e-6)
    assert (expected > 0.02).sum() > 300
