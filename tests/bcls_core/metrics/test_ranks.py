from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.metrics.ranks import best_positive_ranks


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_rank_is_the_place_in_a_stable_descending_sort(data):
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    value = st.sampled_from([-float("inf"), -1.0, 0.0, 1.0])
    scores = torch.tensor([[data.draw(value) for _ in range(columns)] for _ in range(rows)])
    pairs = data.draw(st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1))))
    queries, gallery = torch.tensor([*pairs], dtype=torch.int64).reshape(-1, 2).T
    block = data.draw(st.integers(1, 7))
    ranks = best_positive_ranks(lambda start, stop: scores[start:stop], rows, queries, gallery, block)
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices.tolist()
    expected = [min((order[q].index(g) for p, g in pairs if p == q), default=-1) for q in range(rows)]
    assert ranks.tolist() == expected


def test_each_strip_is_asked_for_once():
    asked = []

    def strip(start, stop):
        asked.append((start, stop))
        return torch.zeros(stop - start, 3)

    ranks = best_positive_ranks(strip, 5, torch.tensor([4, 0]), torch.tensor([2, 1]), 2)
    assert asked == [(0, 2), (2, 4), (4, 5)]
    assert ranks.tolist() == [1, -1, -1, -1, 2]
