"""Which captions an update may build upon."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ShapeError
from bcls_core.similarity import incremental_changes
from bcls_core.similarity.cider_d import CiderD
from bcls_core.similarity.incremental_changes import kept_captions
from bcls_core.similarity.split_rows import SplitRows

TEXTS = ["a dog", "a dog a dog a dog", "the red bus", "", "a red dog runs to the bus"]
CIDER_D = CiderD.fit(TEXTS, range(len(TEXTS)))
DENSE = np.arange(1, 16, dtype=np.float16).reshape(5, 3)
ROWS: dict[str, Any] = {
    "dense": lambda texts: DENSE[texts].reshape(-1, 3),
    "sparse": lambda texts: CIDER_D.represent([TEXTS[text] for text in texts]).weights,
    "counted": lambda texts: CIDER_D.represent([TEXTS[text] for text in texts]),
}

Captions = dict[int, tuple[int, int]]


def split_of(captions: Captions, kind: str = "dense") -> SplitRows:
    ids = sorted(captions)
    rows = ROWS[kind]([captions[i][0] for i in ids])
    return SplitRows(np.array(ids, dtype=np.int64), [captions[i][1] for i in ids], rows)


CAPTIONS = st.dictionaries(st.integers(0, 15), st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=12)


@pytest.mark.parametrize("kind", ROWS)
@given(old=CAPTIONS, new=CAPTIONS)
@settings(max_examples=60, deadline=None)
def test_kept_captions_have_their_row_and_their_company(kind: str, old: Captions, new: Captions) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incremental_changes, "_ROWS", 3)
        kept = kept_captions(split_of(old, kind), split_of(new, kind)).tolist()
    assert kept == sorted(set(kept))
    same = [i for i in old if i in new and old[i][0] == new[i][0]]
    assert set(kept) <= set(same)

    def agree(i: int, j: int) -> bool:
        return (old[i][1] == old[j][1]) == (new[i][1] == new[j][1])

    assert all(agree(i, j) for i, j in combinations(kept, 2))
    for other in set(same) - set(kept):
        assert not all(agree(other, i) for i in kept), "a caption that agrees with all that are kept is kept"


def images(*numbers: int) -> SplitRows:
    return split_of({i: (0, number) for i, number in enumerate(numbers)})


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ([0, 0, 1, 1], [7, 7, 3, 3], [0, 1, 2, 3]),  # other names
        ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 2, 3]),  # names exchanged
        ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 1, 3, 4]),  # one moved
        ([0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [2, 3, 4]),  # an image in two
        ([0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [2, 3, 4]),  # two images in one
        ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 1, 3, 4]),  # two changed places
        ([0, 1, 2], [0, 0, 0], [0]),
    ],
)
def test_the_larger_company_is_kept(before: list[int], now: list[int], kept: list[int]) -> None:
    np.testing.assert_array_equal(kept_captions(images(*before), images(*now)), kept)


def test_images_may_have_names_before_and_numbers_now() -> None:
    rows = np.ones((3, 2), dtype=np.float16)
    old, new = SplitRows(np.arange(3), ["b", "b", "a"], rows), SplitRows(np.arange(3), [4, 4, 9], rows)
    np.testing.assert_array_equal(kept_captions(old, new), [0, 1, 2])


def test_rows_of_another_model_are_not_kept() -> None:
    old = SplitRows(np.arange(2), [0, 1], np.ones((2, 3), dtype=np.float16))
    assert not len(kept_captions(old, SplitRows(np.arange(2), [0, 1], np.ones((2, 4), dtype=np.float16))))


def test_counts_and_lengths_are_part_of_a_row() -> None:
    """ "a dog" three times over weighs each of its words alike, and is another caption to CIDEr-D all the same."""
    rows = CIDER_D.represent(TEXTS[:3])
    ids, own = np.arange(3), np.arange(3)
    longer = type(rows)(rows.weights, rows.counts, rows.lengths + np.array([0, 1, 0], dtype=np.int32))
    counts = rows.counts.copy()
    counts.data[counts.indptr[2]] += 1
    oftener = type(rows)(rows.weights, counts, rows.lengths)
    old = SplitRows(ids, own, rows)
    np.testing.assert_array_equal(kept_captions(old, SplitRows(ids, own, longer)), [0, 2])
    np.testing.assert_array_equal(kept_captions(old, SplitRows(ids, own, oftener)), [0, 1])


@pytest.mark.parametrize(
    ("ids", "owners", "found"),
    [([1, 1], [0, 1], "caption ids: 1 comes before 1"), ([1, 2], [0], "1 images"), ([1, 2, 3], [0, 1, 2], "2 rows")],
)
def test_a_split_that_does_not_fit_together_is_refused(ids: list[int], owners: list[int], found: str) -> None:
    with pytest.raises(ShapeError, match=found):
        SplitRows(np.array(ids), owners, np.ones((2, 3), dtype=np.float16))
