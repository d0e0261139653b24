"""Batches made ahead arrive in order, with their errors."""

from __future__ import annotations

import threading
import time

import pytest

from bcls_core.training.prefetch import Prefetcher


def test_items_arrive_in_order() -> None:
    assert list(Prefetcher(lambda index: index * index, 20, depth=3)) == [index * index for index in range(20)]


def test_without_depth_items_are_made_in_time_and_counted_as_stall() -> None:
    made: list[int] = []
    before = threading.active_count()

    def make(index: int) -> int:
        made.append(index)
        time.sleep(0.01)
        return index

    items = Prefetcher(make, 3, depth=0)
    for item in items:
        assert made == list(range(item + 1))
        assert threading.active_count() == before
    assert made == [0, 1, 2]
    assert items.stalled_seconds >= 0.03


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_is_raised_where_its_item_would_be(depth: int) -> None:
    def make(index: int) -> int:
        if index == 2:
            raise ValueError("row 2 is bad")
        return index

    items = iter(Prefetcher(make, 5, depth))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="row 2 is bad"):
        next(items)


def test_a_panic_is_raised_too() -> None:
    class PanicError(BaseException):
        """As compiled code raises it."""

    def make(index: int) -> int:
        raise PanicError(index)

    with pytest.raises(PanicError):
        next(iter(Prefetcher(make, 5)))


def test_leaving_early_stops_the_thread_and_never_runs_far_ahead() -> None:
    made = []
    before = threading.active_count()
    for item in Prefetcher(lambda index: made.append(index) or index, 1000, depth=2):
        if item == 3:
            break
    assert threading.active_count() == before
    assert len(made) <= 3 + 1 + 2 + 1
