"""Relevance against three nested loops."""

from __future__ import annotations

import numpy as np
import pytest

from bcls_core.errors import ShapeError
from bcls_core.similarity import CaptionRelevance, Cider, GalleryCaptions, ImageCaptions, relevance
from bcls_core.similarity.embedding import CosineSimilarity
from bcls_core.similarity.measure import RowSimilarity

TEXTS = ["a red bus", "the bus", "two dogs run", "a dog", "dogs and a bus", "the red dog", "a street at night"]


def rows_of(measure: str) -> tuple[RowSimilarity, object]:  # type: ignore[type-arg]
    rng = np.random.default_rng(1)
    if measure == "embedding":
        rows = rng.normal(size=(24, 16))
        return CosineSimilarity(), (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    captions = [TEXTS[i] for i in rng.integers(0, len(TEXTS), 24)]
    return Cider.similarity, Cider.fit(TEXTS, range(len(TEXTS))).represent(captions)


@pytest.mark.parametrize("measure", ["embedding", "cider"])
@pytest.mark.parametrize("tile", [1, 40, 1 << 22])
def test_relevance_is_the_definition(measure: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relevance, "_TILE_CELLS", tile)
    similarity, rows = rows_of(measure)
    offsets = np.array([0, 5, 6, 11, 15])
    judged = np.array([3, 8, 20, 14, 14, 22, 0])
    own = np.array([[offsets[i] <= j < offsets[i + 1] for j in judged] for i in range(4)])
    found = CaptionRelevance(similarity).rows(
        ImageCaptions(rows[:15], offsets),  # type: ignore[index]
        GalleryCaptions(rows[judged], own),  # type: ignore[index]
    )
    for i in range(4):
        for j, caption in enumerate(judged):
            values = [similarity.pairs(rows[[c]], rows[[caption]])[0] for c in range(offsets[i], offsets[i + 1])]  # type: ignore[index]
            assert found[i, j] == (1.0 if own[i, j] else max(values))
    assert found.dtype == np.float32
    assert own.sum() == 5


def test_shapes_that_disagree_are_refused() -> None:
    similarity, rows = rows_of("embedding")
    gallery = GalleryCaptions(rows, np.zeros((2, 24), dtype=bool))
    with pytest.raises(ShapeError, match="image 1 has no caption"):
        CaptionRelevance(similarity).rows(ImageCaptions(rows, np.array([0, 24, 24])), gallery)
    with pytest.raises(ShapeError, match="found 3 images, and rows for 2"):
        CaptionRelevance(similarity).rows(ImageCaptions(rows, np.array([0, 8, 16, 24])), gallery)
