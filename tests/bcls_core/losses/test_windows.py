from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.losses.positions import label_positions
from bcls_core.losses.windows import beyond_dead_zone, hard_pairs, in_windows


def positions(row):
    distinct = sorted(set(row), reverse=True)
    return [distinct.index(value) for value in row]


def hardest_beyond_dead_zone(scores, labels, gap, window):
    """Per candidate that has one the score of its best-scored loser."""
    place, best = positions(labels), {}
    for j, k in product(range(len(labels)), repeat=2):
        if labels[j] - labels[k] > gap and place[k] >= place[j] + window:
            best[j] = max(best.get(j, scores[k]), scores[k])
    return best


def worst_of_windows(scores, labels, gap, window, stride):
    """Per window that has one the largest violation."""
    place, worst = positions(labels), {}
    for j, k, start in product(range(len(labels)), range(len(labels)), range(0, len(labels), stride)):
        across = start <= place[j] < start + window // 2 <= place[k] < start + window
        if across and labels[j] - labels[k] > gap:
            worst[start // stride] = max(worst.get(start // stride, -np.inf), scores[k] - scores[j])
    return worst


@st.composite
def rows_of_candidates(draw):
    columns = draw(st.integers(1, 14))
    scores = [draw(st.integers(-6, 6)) / 10 for _ in range(columns)]
    levels = draw(st.sampled_from([1, 2, 10]))
    labels = [draw(st.integers(0, levels)) / 10 for _ in range(columns)]
    return np.array([scores, scores[::-1]]), np.array([labels, labels[::-1]])


def on_device(scores, labels, gap, sampling, window, stride):
    if sampling == "dead-zone":
        return beyond_dead_zone(scores, labels, gap, window)
    return in_windows(scores, labels, gap, window, stride)


def compiled(scores, labels, gap, sampling, window, stride):
    return hard_pairs(scores, labels, gap=gap, sampling=sampling, window=window, stride=stride)


@pytest.mark.parametrize("search", [compiled, on_device])
@settings(max_examples=150, deadline=None)
@given(case=rows_of_candidates(), gap=st.sampled_from([0.0, 0.1, 0.2, 0.3]), window=st.integers(1, 9))
def test_dead_zone_pairs_each_candidate_with_its_hardest(case, gap, window, search):
    scores, labels = case
    pairs = search(torch.tensor(scores), torch.tensor(labels), gap, "dead-zone", window, 1)
    for i in range(2):
        found = {
            int(pairs.winners[i, place]): scores[i, pairs.losers[i, place]]
            for place in range(pairs.winners.shape[1])
            if not pairs.absent[i, place]
        }
        assert found == hardest_beyond_dead_zone(scores[i], labels[i], gap, window)


@pytest.mark.parametrize("search", [compiled, on_device])
@settings(max_examples=150, deadline=None)
@given(
    case=rows_of_candidates(),
    gap=st.sampled_from([0.0, 0.1, 0.2, 0.3]),
    window=st.integers(2, 9),
    stride=st.integers(1, 6),
)
def test_local_windows_keep_their_worst_violation(case, gap, window, stride, search):
    scores, labels = case
    pairs = search(torch.tensor(scores), torch.tensor(labels), gap, "local", window, stride)
    for i in range(2):
        found = {}
        for place in range(pairs.winners.shape[1]):
            j, k = pairs.winners[i, place], pairs.losers[i, place]
            if not pairs.absent[i, place]:
                found[place] = scores[i, k] - scores[i, j]
                assert labels[i, j] - labels[i, k] > gap
        assert found == worst_of_windows(scores[i], labels[i], gap, window, stride)


@pytest.mark.parametrize("sampling", ["dead-zone", "local"])
@pytest.mark.parametrize("size", [64, 200])
def test_compiled_and_torch_forms_mine_the_same(sampling, size):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(90, size, generator=generator)
    labels = torch.rand(90, size, generator=generator)  # no ties, so the pairs themselves must agree
    ours = compiled(scores, labels, 0.1, sampling, 12, 5)
    other = on_device(scores, labels, 0.1, sampling, 12, 5)
    for i in range(len(scores)):
        assert set(pairs_of(ours, i)) == set(pairs_of(other, i))


def pairs_of(pairs, row):
    kept = ~pairs.absent[row]
    return zip(pairs.winners[row, kept].tolist(), pairs.losers[row, kept].tolist(), strict=True)


def test_positions_count_distinct_labels_from_the_highest():
    labels = torch.tensor([[0.3, 0.9, 0.3, 0.1], [0.5, 0.5, 0.5, 0.5]])
    assert label_positions(labels).tolist() == [[1, 0, 1, 2], [0, 0, 0, 0]]
    assert label_positions(torch.tensor([[0.7]])).tolist() == [[0]]
