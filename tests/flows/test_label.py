"""How a label set's work is cut into pieces."""

from __future__ import annotations

from flows.label import panels


def test_panels_are_shards_side_by_side_in_one_split() -> None:
    splits = ["train", "train", "train", None, "val", "train", "val"]
    captions = [40, 50, 30, 0, 20, 300, 10]
    pieces = panels("neighbours-m", splits, captions, most=90)
    assert [piece["shards"] for piece in pieces] == [[0, 1], [2], [3], [4], [5], [6]]
    assert [piece["piece"] for piece in pieces][:2] == ["neighbours-m-00000-00001", "neighbours-m-00002-00002"]
    assert len({piece["piece"] for piece in pieces}) == len(pieces)
    train = 40 + 50 + 30 + 300
    assert [piece["work"] for piece in pieces] == [
        1 + n for n in (90 * train, 30 * train, 0, 20 * 30, 300 * train, 300)
    ]


def test_a_panel_can_hold_a_whole_split() -> None:
    assert [piece["shards"] for piece in panels("p", ["train"] * 5, [10] * 5, most=50)] == [[0, 1, 2, 3, 4]]
    assert panels("p", [], [], most=50) == []
