"""Nearest images of a corpus of features, zeros included."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bcls_core.audit import features as subject
from bcls_core.audit.features import nearest_features


def vector(name: str) -> Any:
    if name in ("train-0-0.png", "test-3-6.png"):
        return np.zeros(4)
    if name in ("test-3-2.png", "train-1-3.png"):
        return np.array([1.0, 2.0, 3.0, 4.0]) * (2 if name.startswith("test") else 1)
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=4)


@pytest.mark.parametrize("chunk", [1, 5, 16_384])
def test_nearest_features_are_exact_and_zeros_match_nothing(
    make_ground: Callable[..., Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_CHUNK", chunk)
    ground = make_ground(features=vector)
    train, test = ground.rows("train"), ground.rows("test")
    scores, found = nearest_features(test, train)
    ours, theirs = (
        [vector(name).astype(np.float16).astype(np.float64) for name in rows.image_ids] for rows in (test, train)
    )
    for row, mine in enumerate(ours):
        best = (-np.inf, -1)
        for place, other in enumerate(theirs):
            if mine.any() and other.any():
                value = float(np.float32(mine @ other / np.linalg.norm(mine) / np.linalg.norm(other)))
                best = max(best, (value, -place))
        assert found[row] == (-best[1] if best[0] > -np.inf else -1)
        assert scores[row] == pytest.approx(best[0], abs=1e-6)
    assert (scores[2], train.image_ids[found[2]]) == (1, "train-1-3.png")
    assert found[6] == -1
