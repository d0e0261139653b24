"""Rows of a measure by caption id, beside the corpus's own order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bcls_core.audit.labelled import LabelledMeasure, SplitCaptions
from bcls_core.errors import StoreError


def test_captions_of_a_split_are_in_order_of_ids(ground: Any) -> None:
    rows = ground.rows("train")
    captions = SplitCaptions(rows)
    expected = ground.of("train")
    assert captions.ids.tolist() == [c.id for c in expected]
    assert [rows.image_ids[image] for image in captions.images] == [c.image for c in expected]
    assert rows.captions(captions.rows) == [c.text for c in expected]
    np.testing.assert_array_equal(captions.places_of(captions.ids[::-1]), np.arange(len(expected))[::-1])


@pytest.mark.parametrize("stranger", [-1, 10_000])
def test_a_neighbour_that_the_corpus_does_not_hold_is_an_error(ground: Any, stranger: int) -> None:
    captions = SplitCaptions(ground.rows("val"))
    with pytest.raises(StoreError, match="Make the labels again"):
        captions.places_of(np.array([captions.ids[0], stranger]))


def test_rows_and_pairs_are_those_of_the_label_set(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcls_core.audit.labelled._CHUNK", 4)
    measure = LabelledMeasure(ground.labels, "toy")
    written = ground.of("train")
    ids = np.array([c.id for c in written])
    np.testing.assert_array_equal(measure.take(ids), [c.row for c in written])
    matrix = measure.similarity.matrix(measure.take(ids), measure.take(ids))
    np.testing.assert_array_equal(measure.pairs(ids, ids[::-1]), matrix[np.arange(len(ids)), np.arange(len(ids))[::-1]])
    chunks = list(measure.chunks(ids))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in chunks]), ids)
    assert max(len(part) for part, _ in chunks) == 4


def test_a_measure_that_is_not_there_is_named(ground: Any) -> None:
    with pytest.raises(StoreError, match=r"no measure 'cider'. Name one it has: toy"):
        LabelledMeasure(ground.labels, "cider")
