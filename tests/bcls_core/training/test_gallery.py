from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bcls_core.data.rows import CorpusRows
from bcls_core.errors import ShapeError
from bcls_core.metrics.strips import Products, Strips
from bcls_core.similarity import LabelSetRelevance
from bcls_core.students import Student
from bcls_core.training.gallery import LabelStrips, pair_scores, scores_of
from bcls_core.training.initial import initial_student


class Squared(Student):
    """A score of its own, which is no product."""

    factorised = False

    def encode_images(self, batch: Any) -> torch.Tensor:
        raise NotImplementedError

    encode_captions = encode_images

    def score(self, image_encodings: torch.Tensor, caption_encodings: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(image_encodings, caption_encodings)


def encodings() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 5, generator=generator), torch.randn(21, 5, generator=generator)


def test_a_student_whose_score_is_a_product_needs_no_matrix(ground: Any) -> None:
    student = initial_student(ground.recipe.train, ground.corpus)
    images, captions = encodings()
    scores = scores_of(student, images.bfloat16(), captions.bfloat16())
    assert isinstance(scores, Products)
    assert (scores.image_encodings == images.bfloat16().float().numpy()).all()


def test_any_other_score_is_asked_for_rows_and_for_columns() -> None:
    images, captions = encodings()
    student = Squared({}, None)  # type: ignore[arg-type]
    scores = scores_of(student, images, captions)
    assert isinstance(scores, Strips)
    assert not isinstance(scores, Products)
    whole = student.score(images, captions).numpy()
    np.testing.assert_allclose(scores.image_rows(2, 7), whole[2:7], rtol=1e-5)
    np.testing.assert_allclose(scores.caption_rows(4, 20), whole.T[4:20], rtol=1e-5)


def test_nan_in_a_score_is_named_by_its_place_in_the_gallery() -> None:
    images, captions = encodings()
    images[6] = torch.nan
    scores = scores_of(Squared({}, None), images, captions)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="scores: nan at row 6, column 0"):
        scores.image_rows(5, 8)
    with pytest.raises(ShapeError, match="scores: nan at row 6, column 0"):
        scores.caption_rows(5, 8)


def test_scores_of_single_pairs_are_those_of_the_matrix(ground: Any) -> None:
    images, captions = encodings()
    rows, columns = np.array([3, 0, 3, 8, 0]), np.array([20, 1, 4, 4, 1])
    for student in (Squared({}, None), initial_student(ground.recipe.train, ground.corpus)):  # type: ignore[arg-type]
        expected = student.score(images, captions).numpy()[rows, columns]
        found = pair_scores(scores_of(student, images, captions), rows, columns)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_strips_of_labels_are_parts_of_one_matrix(ground: Any, split: str) -> None:
    rows = CorpusRows(ground.corpus, split)
    relevance = LabelSetRelevance(ground.labels, "cider", split)
    own = [rows.caption_ids[rows.captions_of(row)] for row in range(rows.image_count)]
    whole = relevance.rows(own, rows.caption_ids)
    strips = LabelStrips(rows, relevance)
    assert (strips.images, strips.captions) == whole.shape
    assert (strips.image_rows(3, 11) == whole[3:11]).all()
    assert (strips.caption_rows(7, 40) == whole.T[7:40]).all()
    assert (whole[rows.caption_image, np.arange(rows.caption_count)] == 1).all()
