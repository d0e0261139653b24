"""CIDEr against a direct transcription of its formula."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ShapeError, StoreError
from bcls_core.similarity import Cider
from bcls_core.similarity.document_frequencies import DocumentCounter, DocumentFrequencies
from bcls_core.similarity.tfidf import TfidfSimilarity

WORDS = ["a", "the", "dog", "cat", "red", "bus", "runs", "on", "street"]
captions_of = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)
SEEN = ["a dog runs on the street", "the red bus", "a cat on a red bus", "the dog", "a street", "a a a dog dog runs"]
IMAGES = [1, 1, 2, 3, 3, 4]


def slow_cider(a: str, b: str, seen: list[str], images: list[int]) -> float:
    """One pair, one n-gram at a time, with dictionaries only (CIDEr, equation 2, without the factor 10)."""

    def grams(caption: str, n: int) -> list[tuple[str, ...]]:
        words = caption.split()
        return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]

    total = len(set(images))
    value = 0.0
    for n in (1, 2, 3, 4):

        def vector(caption: str, n: int = n) -> dict[tuple[str, ...], float]:
            weights = {}
            for gram, count in Counter(grams(caption, n)).items():
                df = len({image for other, image in zip(seen, images, strict=True) if gram in grams(other, n)})
                weights[gram] = count * math.log(total / max(1, df))
            return weights

        x, y = vector(a), vector(b)
        norms = math.sqrt(sum(w * w for w in x.values())) * math.sqrt(sum(w * w for w in y.values()))
        if norms > 0:
            value += sum(w * y.get(gram, 0.0) for gram, w in x.items()) / norms / 4
    return value


@given(st.lists(captions_of, min_size=1, max_size=6), st.lists(captions_of, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_values_are_the_formula_on_seen_and_unseen_text(a: list[str], b: list[str]) -> None:
    a, b = [*a, "a dog runs on zebra crossings"], [*b, "zebra crossings on a dog", SEEN[0]]
    cider = Cider.fit(SEEN, IMAGES)
    matrix = cider.matrix(a, b)
    expected = [[slow_cider(x, y, SEEN, IMAGES) for y in b] for x in a]
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-6)
    assert matrix.dtype == np.float32
    assert ((matrix >= 0) & (matrix <= 1)).all()
    left, right = np.divmod(np.arange(matrix.size), len(b))
    assert cider.pairs([a[i] for i in left], [b[j] for j in right]).tobytes() == matrix.tobytes()
    assert np.ascontiguousarray(cider.matrix(b, a).T).tobytes() == matrix.tobytes()


def test_known_values() -> None:
    cider = Cider.fit(["red bus stop sign", "two dogs", "a cat"], ["1", "2", "3"])
    same = cider.pairs(
        ["red bus stop sign", "red bus", "red", "two", ""], ["red bus stop sign", "red bus", "red", "dogs", ""]
    )
    np.testing.assert_allclose(same, [1.0, 0.5, 0.25, 0.0, 0.0], atol=1e-6)


def test_words_in_every_image_weigh_nothing() -> None:
    cider = Cider.fit(["a dog", "a cat", "a bus"], [1, 2, 3])
    assert cider.pairs(["a"], ["a"]) == [0.0]
    assert cider.pairs(["a dog"], ["a bus"]) == [0.0]
    assert (Cider.fit(["a dog"], [1]).matrix(["a dog"], ["a dog"]) == 0).all()


def test_an_unseen_word_matches_itself_and_counts_in_the_norm() -> None:
    cider = Cider.fit(["dog runs", "cat runs", "bus stops"], [1, 2, 3])
    shared, alone = cider.pairs(["zebra"] * 2, ["zebra", "okapi"])
    assert shared == pytest.approx(0.25, abs=1e-6)
    assert alone == 0.0
    once = cider.pairs(["dog"], ["dog zebra"])[0]
    assert once == pytest.approx(0.25 / math.sqrt(2), abs=1e-6)


def test_top_k_is_the_matrix_sorted() -> None:
    dice = np.random.default_rng(0)
    captions = [" ".join(dice.choice(WORDS, size=dice.integers(1, 8))) for _ in range(80)]
    captions[40:] = [captions[i] for i in dice.integers(0, 40, 40)]
    groups = dice.integers(0, 20, 80)
    cider = Cider.fit(SEEN, IMAGES)
    scores, ids = cider.top_k(captions, 9, exclude=groups)
    matrix = cider.matrix(captions, captions)
    matrix[groups[:, None] == groups] = -np.inf
    order = np.argsort(-matrix, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(ids, order)
    assert scores.tobytes() == np.take_along_axis(matrix, order, axis=1).tobytes()
    for at_once in (1, 29, 700):
        again = TfidfSimilarity().top_k(cider._rows(captions), 9, exclude=groups, queries_at_once=at_once)
        assert again[0].tobytes() == scores.tobytes()
        np.testing.assert_array_equal(again[1], ids)
    with pytest.raises(ShapeError, match="k=0"):
        cider.top_k(captions, 0)


def test_sums_are_exact() -> None:
    """Weights are multiples of 2^-24, so float64 sums of products equal the rational ones: no order can matter."""
    cider = Cider.fit(SEEN, IMAGES)
    rows = cider.represent(SEEN)
    assert rows.data.dtype == np.float32
    assert (rows.data * 2.0**24 == np.rint(rows.data * 2.0**24)).all()
    dense = rows.toarray().astype(np.float64)
    for i in range(len(SEEN)):
        for j in range(len(SEEN)):
            exact = sum((Fraction(p) * Fraction(q) for p, q in zip(dense[i], dense[j], strict=True)), Fraction(0))
            assert Fraction(float(dense[i] @ dense[j])) == exact
            assert TfidfSimilarity().pairs(rows[[i]], rows[[j]])[0] == np.float32(min(float(exact) / 4, 1.0))


def test_a_row_does_not_depend_on_its_company() -> None:
    cider = Cider.fit(SEEN, IMAGES)
    text = "zebra dog okapi runs"
    alone = cider.pairs([text], ["okapi runs on a zebra"])
    among = cider.pairs(["okapi gnu", text, "yak zebra"], ["gnu", "okapi runs on a zebra", "yak"])
    assert among[1] == alone[0]


def test_the_table_survives_storage_and_ignores_the_order_of_reading() -> None:
    whole, reversed_ = DocumentCounter(), DocumentCounter()
    whole.add(SEEN, IMAGES)
    whole.add(["only here"], [9], counted=False)
    reversed_.add(["only here"], [9], counted=False)
    for image in (4, 3, 2, 1):
        chosen = [caption for caption, other in zip(SEEN, IMAGES, strict=True) if other == image]
        reversed_.add(chosen[::-1], [image] * len(chosen))
    table = whole.frequencies().to_table()
    assert table.equals(reversed_.frequencies().to_table())
    assert table.slice(0, 1).to_pylist() == [{"ngram": "", "id": 0, "df": 4}]
    rows = {row["ngram"]: row["df"] for row in table.to_pylist()}
    assert (rows["a"], rows["dog"], rows["the red"], rows["only here"]) == (4, 3, 1, 0)
    restored = DocumentFrequencies.from_table(table)
    assert restored.images == 4
    a, b = Cider(restored), Cider.fit(SEEN, IMAGES)
    assert a.matrix(SEEN, ["only here"]).tobytes() == b.matrix(SEEN, ["only here"]).tobytes()
    with pytest.raises(StoreError, match="count up"):
        DocumentFrequencies.from_table(table.slice(1))


def test_an_extension_gives_ids_and_changes_no_value() -> None:
    frequencies = Cider.fit(SEEN, IMAGES).frequencies
    extended = frequencies.extended(["zebra dog", "zebra", "dog", "okapi", "zebra"])
    assert list(extended.ids)[: len(frequencies.ids)] == list(frequencies.ids)
    assert list(extended.ids)[len(frequencies.ids) :] == ["okapi", "zebra", "zebra dog"]
    assert list(extended.ids.values()) == list(range(len(extended.counts)))
    assert (extended.images, extended.counts[-3:].tolist()) == (frequencies.images, [0, 0, 0])
    text = [*SEEN, "zebra dog", "a zebra", "okapi"]
    assert Cider(extended).matrix(text, text).tobytes() == Cider(frequencies).matrix(text, text).tobytes()
    again = DocumentFrequencies.from_table(extended.to_table()).extended([])
    assert again.ids == extended.ids


def test_stored_rows_must_be_comparable_later() -> None:
    with pytest.raises(StoreError, match=r"'a zebra' holds 'zebra'"):
        Cider.fit(SEEN, IMAGES).represent(["the dog", "a zebra"])
    with pytest.raises(ShapeError, match="no image"):
        Cider.fit([], [])
    with pytest.raises(ShapeError, match="as many"):
        Cider.fit(SEEN, IMAGES).pairs(["a"], ["a", "b"])
    assert Cider.fit(SEEN, IMAGES).matrix([], ["a dog"]).shape == (0, 1)


def test_golden() -> None:
    """Pins CIDER_VERSION 1: raise the version with any change here."""
    rows = Cider.fit(SEEN, IMAGES).represent(["the dog", "a a a dog dog runs"])
    assert rows.indptr.tolist() == [0, 3, 16]
    assert rows.indices.tolist() == [4, 9, 22, 4, 7, 10, 12, 16, 17, 25, 26, 28, 32, 38, 39, 41]
    # In units of 2^-24. "the" is in 2 of 4 images and "dog" in 3: log 2 and log 4/3, over their norm.
    norm = math.hypot(math.log(2), math.log(4 / 3))
    weights = np.rint(rows.data * 2.0**24).astype(int).tolist()
    assert weights[:3] == [round(math.log(4 / 3) / norm * 2**24), round(math.log(2) / norm * 2**24), 2**24]
    assert weights[3:9] == [10715668, 12909277, 14307658, 3576914, 7153829, 3576914]
    assert weights[9:] == [2**23] * 4 + [9686330] * 3
