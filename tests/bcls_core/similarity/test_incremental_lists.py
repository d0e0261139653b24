"""Lists as they are stored, compared and joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bcls_core.errors import ShapeError
from bcls_core.similarity.incremental_lists import Lists, PlaceOf, reusable_shards


def lists_of(lists: dict[int, list[tuple[int, float]]], k: int = 3) -> Lists:
    ids = sorted(lists)
    cells = [cell for i in ids for cell in lists[i]]
    return Lists(
        np.array(ids, dtype=np.int64),
        np.concatenate([[0], np.cumsum([len(lists[i]) for i in ids])]).astype(np.int64),
        np.array([i for i, _ in cells], dtype=np.int64),
        np.array([score for _, score in cells], dtype=np.float32),
        k,
    )


LISTS = {2: [(5, 0.5), (9, 0.25)], 5: [], 9: [(2, 0.75), (5, 0.5), (11, 0.0)], 11: [(2, 1.0)]}


def test_places_left_over_by_a_search_end_a_list() -> None:
    scores = np.array([[0.5, 0.25, -np.inf], [-np.inf] * 3, [0.75, 0.5, 0.0], [1, -np.inf, -np.inf]], dtype=np.float32)
    found = np.array([[5, 9, -1], [-1] * 3, [2, 5, 11], [2, -1, -1]])
    lists = Lists.of(np.array([2, 5, 9, 11]), scores, found)
    expected = lists_of(LISTS)
    for name in ("ids", "starts", "neighbours", "scores", "k"):
        np.testing.assert_array_equal(getattr(lists, name), getattr(expected, name))
    np.testing.assert_array_equal(lists.lengths, [2, 0, 3, 1])
    assert lists.same(expected, expected.ids).all()


def test_places_to_spare_can_be_left_off() -> None:
    lists = lists_of(LISTS, k=2)
    np.testing.assert_array_equal(lists.shortened().neighbours, [5, 9, 2, 5, 2])
    np.testing.assert_array_equal(lists.shortened().starts, [0, 2, 2, 4, 5])
    np.testing.assert_array_equal(lists.shortened().scores, np.array([0.5, 0.25, 0.75, 0.5, 1], dtype=np.float32))
    longer = Lists.of(lists.ids, np.zeros((4, 5), dtype=np.float32), np.zeros((4, 5), dtype=np.int64), 2)
    assert (longer.k, longer.shortened().lengths.tolist()) == (2, [2, 2, 2, 2])


@pytest.mark.parametrize("ids", [[], [7], [3, 4, 9], [-(2**62), 5, 2**62], [2**62, 2**62 + 1]])
def test_places_of_ids_that_lie_close_or_far_apart(ids: list[int]) -> None:
    asked = [-(2**63), -(2**62), -8, 3, 5, 4, 7, 9, 9, 10, 2**62, 2**62 + 1, 2**63 - 1]
    expected = [ids.index(i) if i in ids else -1 for i in asked]
    np.testing.assert_array_equal(PlaceOf(np.array(ids, dtype=np.int64))(np.array(asked)), expected)


def test_joined_lists_are_in_order_of_ids() -> None:
    parts = [lists_of({i: LISTS[i] for i in some}) for some in ([5, 11], [], [2, 9])]
    joined, expected = Lists.joined(parts), lists_of(LISTS)
    for name in ("ids", "starts", "neighbours", "scores", "k"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(expected, name))
    assert joined.ids.dtype == joined.neighbours.dtype == np.int64


def test_lists_differ_by_id_score_order_and_length() -> None:
    other = {
        2: [(5, 0.5), (9, np.nextafter(np.float32(0.25), np.float32(1)))],
        5: [],
        9: [(5, 0.75), (2, 0.5), (11, 0.0)],
        11: [(2, 1.0), (5, 0.0)],
        12: [],
    }
    same = lists_of(LISTS).same(lists_of(other), np.array([11, 9, 5, 2]))
    np.testing.assert_array_equal(same, [False, False, True, False])
    with pytest.raises(ShapeError, match="caption 12 has no list among 4"):
        lists_of(LISTS).same(lists_of(other), np.array([12]))


def test_shards_with_the_same_captions_and_lists_are_reused() -> None:
    old = {i: [(i + 1, 0.5)] for i in range(12)}
    shards = [np.array([1, 0]), np.array([2, 3]), np.array([], dtype=int), np.array([5, 4]), np.array([6, 7, 8])]
    new = dict(old) | {3: [(4, 0.25)], 20: []}
    later = [
        np.array([20]),
        np.array([1, 0]),  # another number
        np.array([2, 3]),  # a list changed
        np.array([], dtype=int),
        np.array([4, 5]),  # another order
        np.array([6, 7]),  # fewer captions
    ]
    assert reusable_shards(lists_of(old), lists_of(new), shards, later) == {1: 0}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"ids": np.array([5, 2, 9, 11])}, "ids of the lists: 5 comes before 2"),
        ({"starts": np.array([0, 2, 2, 6])}, "4 starts up to 6"),
        ({"neighbours": np.arange(5)}, "5 neighbours"),
        ({"scores": np.zeros(7)}, "7 scores"),
        ({"starts": np.zeros(5, dtype=int), "neighbours": np.arange(0), "scores": np.zeros(0), "k": 0}, "k=0"),
    ],
)
def test_lists_that_do_not_fit_together_are_refused(changes: dict[str, Any], found: str) -> None:
    fields = {name: getattr(lists_of(LISTS), name) for name in ("ids", "starts", "neighbours", "scores", "k")}
    with pytest.raises(ShapeError, match=found):
        Lists(**{**fields, **changes})


def test_parts_that_cannot_be_joined_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"k of \[2, 3\]"):
        Lists.joined([lists_of({}), lists_of({}, k=2)])
    with pytest.raises(ShapeError, match=r"k of \[\]"):
        Lists.joined([])
    with pytest.raises(ShapeError, match="2 comes before 2"):
        Lists.joined([lists_of({2: []}), lists_of({2: []})])
