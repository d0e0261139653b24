"""Corpus-wide soft labels fall upon a batch as a lookup, pair by pair, says they must."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.similarity.corpus_soft_labels import CorpusSoftLabels


def lists_of(dice: np.random.Generator, count: int, most: int) -> list[dict[int, float]]:
    """Of each row some rows and their probabilities, itself first; what is left goes to the rest."""
    lists = []
    for row in range(count):
        others = dice.permutation([other for other in range(count) if other != row])[: dice.integers(0, most + 1)]
        probs = dice.dirichlet(np.ones(len(others) + 2))[:-1]
        lists.append(dict(zip([row, *others.tolist()], probs.tolist(), strict=True)))
    return lists


def opened(lists: list[dict[int, float]], others: int, parts: int = 2) -> CorpusSoftLabels:
    def tables() -> Any:
        for part in np.array_split(np.arange(len(lists)), parts):
            some = [lists[row] for row in part]
            yield (
                np.array([len(one) for one in some], dtype=np.int64),
                np.array([row for one in some for row in one], dtype=np.int64),
                np.array([prob for one in some for prob in one.values()], dtype=np.float32),
                np.array([1 - sum(one.values()) for one in some], dtype=np.float32),
            )

    return CorpusSoftLabels(tables(), np.full(len(lists), others))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), most=st.integers(0, 8))
def test_a_pair_has_its_probability_or_its_part_of_the_rest(seed: int, count: int, most: int) -> None:
    dice = np.random.default_rng(seed)
    lists = lists_of(dice, count, most)
    labels = opened(lists, others=count - 1)
    every = dice.permutation(count)[: dice.integers(1, count + 1)]
    rows = dice.integers(0, count, size=dice.integers(0, 6))
    found = labels.matrix(rows, every)
    assert found.shape == (len(rows), len(every))
    assert found.dtype == np.float32
    for i, row in enumerate(rows.tolist()):
        rest = (1 - sum(lists[row].values())) / max(1, count - len(lists[row]))
        for j, other in enumerate(every.tolist()):
            assert found[i, j] == pytest.approx(math.log(lists[row].get(other, rest)), abs=1e-3)


def test_nothing_left_over_is_a_number() -> None:
    labels = opened([{0: 0.5, 1: 0.5}, {1: 1.0}, {2: 1.0}], others=2)
    found = labels.matrix(np.arange(3), np.arange(3))
    assert np.isfinite(found).all()
    share = np.exp(found) / np.exp(found).sum(1, keepdims=True)
    np.testing.assert_allclose(share, [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]], atol=1e-6)
