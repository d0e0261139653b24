from __future__ import annotations

import threading
import time

import pytest
import torch

from bcls_core.teachers.lanes import in_lanes


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_and_pieces_run_side_by_side_on_one_thread_each() -> None:
    both = threading.Barrier(2, timeout=10)

    def work(piece: int) -> tuple[int, int]:
        both.wait()
        time.sleep(0.01 * (piece % 3))
        return piece, torch.get_num_threads()

    assert list(in_lanes(work, range(20))) == [(piece, 1) for piece in range(20)]
    assert torch.get_num_threads() == 2
    assert list(in_lanes(work, [])) == []


def test_pieces_are_made_a_little_ahead() -> None:
    made = []

    def pieces():
        for piece in range(1000):
            made.append(piece)
            yield piece

    results = in_lanes(str, pieces())
    assert next(results) == "0"
    assert len(made) < 20
    results.close()
    assert torch.get_num_threads() == 2


def test_an_error_ends_it_and_threads_are_given_back() -> None:
    done = []

    def work(piece: int) -> None:
        if piece == 3:
            raise ValueError("three")
        done.append(piece)

    with pytest.raises(ValueError, match="three"):
        list(in_lanes(work, range(1000)))
    assert len(done) < 50
    assert torch.get_num_threads() == 2
