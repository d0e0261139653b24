"""The nearest row of chunks against one search of all rows."""

from __future__ import annotations

import numpy as np
import pytest

from bcls_core.audit.nearest import nearest_of_chunks
from bcls_core.similarity import EmbeddingCosine


@pytest.mark.parametrize("step", [1, 3, 100])
def test_chunks_do_not_matter_and_ties_go_to_the_lower_id(step: int) -> None:
    dice = np.random.default_rng(step)
    rows = dice.integers(-1, 2, (40, 3)).astype(np.float16)
    rows[:, 0] = 1
    queries = rows[:12] + np.float16(0)
    ids = np.sort(dice.choice(1000, 40, replace=False))
    chunks = [(ids[start : start + step], rows[start : start + step]) for start in range(0, 40, step)]
    scores, found = nearest_of_chunks(EmbeddingCosine.similarity, queries, chunks)
    matrix = EmbeddingCosine.similarity.matrix(queries, rows)
    np.testing.assert_array_equal(found, ids[matrix.argmax(axis=1)])
    np.testing.assert_array_equal(scores, matrix.max(axis=1))


def test_nothing_to_find_and_nobody_who_asks() -> None:
    rows = np.ones((2, 3), dtype=np.float16)
    scores, found = nearest_of_chunks(EmbeddingCosine.similarity, rows, [])
    assert np.isneginf(scores).all()
    assert found.tolist() == [-1, -1]
    scores, found = nearest_of_chunks(EmbeddingCosine.similarity, rows[:0], [(np.array([4, 7]), rows)])
    assert len(scores) == len(found) == 0
