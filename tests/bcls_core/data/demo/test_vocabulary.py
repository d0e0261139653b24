from __future__ import annotations

from bcls_core.data.demo.vocabulary import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    EXTENT,
    GROUP_OF,
    GROUPS,
    LEVELS,
    RIDERS,
    SIDE,
    SIZES,
    SUPPORTS,
    THEMES,
)


def test_every_category_is_described_once() -> None:
    assert sorted(category for members in GROUPS.values() for category in members) == sorted(CATEGORIES)
    assert set(GROUP_OF) == set(LEVELS) == set(EXTENT) == set(CATEGORIES)
    assert all(LEVELS.values())


def test_objects_fit_their_unit_square() -> None:
    assert all(0 < width <= 1 and 0 < height <= 1 for width, height in EXTENT.values())
    assert SIDE["small"] < SIDE["medium"] < SIDE["large"] < 0.5
    assert set(SIDE) == set(SIZES)


def test_supports_and_riders_can_stack_on_the_ground() -> None:
    assert all("ground" in LEVELS[category] for category in SUPPORTS)
    assert set(SUPPORTS) | set(RIDERS) <= set(CATEGORIES)


def test_there_is_enough_to_tell_apart() -> None:
    assert len(CATEGORIES) >= 12
    assert len(COLOURS) >= 8
    assert set(THEMES) == set(BACKGROUNDS)
    assert {category for theme in THEMES.values() for category in theme} == set(CATEGORIES)
