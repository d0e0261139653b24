from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.data.demo.dice import Dice

KEYS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4)


@given(st.integers(0, 2**63), KEYS)
def test_the_same_key_gives_the_same_stream(seed: int, key: list[int]) -> None:
    first, second = Dice(seed, *key), Dice(seed, *key)
    assert [first.unit() for _ in range(70)] == [second.unit() for _ in range(70)]


@given(KEYS)
def test_a_longer_key_gives_another_stream(key: list[int]) -> None:
    assert [Dice(1, *key).unit()] != [Dice(1, *key, 0).unit()] != [Dice(2, *key, 0).unit()]


def test_the_stream_is_pinned() -> None:
    dice = Dice(7, 0, 3, 1)
    assert [int(dice.unit() * 2**53) for _ in range(3)] == [2264187978607538, 6652652270045130, 217846063004163]


def test_units_are_uniform_in_the_half_open_interval() -> None:
    dice = Dice(3, 0)
    values = [dice.unit() for _ in range(20_000)]
    assert min(values) >= 0
    assert max(values) < 1
    tenths = Counter(int(10 * value) for value in values)
    assert all(abs(count - 2000) < 200 for count in tenths.values())


def test_picks_follow_their_weights() -> None:
    dice = Dice(3, 1)
    counts = Counter(dice.pick("abc", (1.0, 0.0, 3.0)) for _ in range(8000))
    assert counts["b"] == 0
    assert counts["c"] / counts["a"] == pytest.approx(3.0, rel=0.1)
    assert set(Counter(dice.pick("abc") for _ in range(100))) == set("abc")


def test_shuffling_keeps_the_items_and_reaches_every_order() -> None:
    dice = Dice(3, 2)
    orders = Counter("".join(dice.shuffled("abc")) for _ in range(6000))
    assert set(orders) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert all(abs(count - 1000) < 150 for count in orders.values())


def test_chance_and_between_keep_to_their_bounds() -> None:
    dice = Dice(3, 4)
    assert sum(dice.chance(0.25) for _ in range(8000)) / 8000 == pytest.approx(0.25, abs=0.02)
    assert not any(dice.chance(0.0) for _ in range(100))
    assert all(-2 <= dice.between(-2, 5) < 5 for _ in range(1000))
