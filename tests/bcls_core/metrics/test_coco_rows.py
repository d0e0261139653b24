from __future__ import annotations

import numpy as np
import pytest

from bcls_core.errors import InputError, ShapeError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth
from bcls_core.metrics.coco_rows import rows_of_coco


@pytest.fixture
def small(small_coco):
    return small_coco(40, 3)


@pytest.fixture
def truth(small):
    return CocoGroundTruth.load(small.folder)


def test_rows_follow_the_ids_and_captions_too_many_are_left_out(small, truth):
    generator = np.random.default_rng(0)
    images, _, ids, rows = small.rows(generator)
    ids, rows = np.concatenate([ids, small.strangers]), np.concatenate([rows, [0, 0, 5]])
    order = generator.permutation(len(ids))
    image_row, caption_row = rows_of_coco(truth, len(images), ids[order], rows[order])
    assert [images[row] for row in image_row] == truth.images.values.tolist()
    assert ids[order][caption_row].tolist() == truth.captions.values.tolist() == small.captions


def refusal(small, truth, change):
    images, _, ids, rows = small.rows(np.random.default_rng(1))
    case = {"images": len(images), "ids": ids, "rows": rows}
    case |= change(case)
    with pytest.raises(InputError) as caught:
        rows_of_coco(truth, case["images"], case["ids"], case["rows"])
    return str(caught.value)


def test_missing_captions(small, truth):
    count = len(small.captions)
    message = refusal(small, truth, lambda case: {"ids": case["ids"][2:], "rows": case["rows"][2:]})
    assert f"2 of the {count} captions of the COCO 5K test are not there" in message
    message = refusal(small, truth, lambda _: {"ids": np.arange(count)})  # positions, not ids
    assert "whole gallery, under COCO's own caption ids" in message
    message = refusal(small, truth, lambda case: {"ids": np.where(np.arange(count) == 3, 95_000, case["ids"])})
    assert "1 of the" in message


def test_a_caption_given_twice(small, truth):
    message = refusal(
        small, truth, lambda case: {"ids": np.append(case["ids"], case["ids"][4]), "rows": np.append(case["rows"], 0)}
    )
    assert "is there twice" in message
    message = refusal(
        small,
        truth,
        lambda case: {"ids": np.append(case["ids"], [95_000] * 2), "rows": np.append(case["rows"], [0, 0])},
    )
    assert "95000 is there twice" in message


def test_captions_of_one_row_that_are_of_two_images(small, truth):
    message = refusal(small, truth, lambda case: {"ids": np.random.default_rng(2).permutation(case["ids"])})
    assert "are of the COCO images" in message


def test_an_image_that_is_not_in_the_test(small, truth):
    message = refusal(
        small,
        truth,
        lambda case: {
            "images": case["images"] + 1,
            "ids": np.append(case["ids"], 95_000),
            "rows": np.append(case["rows"], case["images"]),
        },
    )
    assert (
        f"1 of {len(small.images) + 1} images have no caption in the COCO 5K test, row {len(small.images)}" in message
    )
    assert "no caption" in refusal(small, truth, lambda case: {"images": case["images"] + 1})


def test_an_image_given_twice(small, truth):
    def split(case):
        image = int(np.bincount(case["rows"]).argmax())
        rows = case["rows"].copy()
        rows[np.flatnonzero(rows == image)[0]] = case["images"]
        return {"images": case["images"] + 1, "rows": rows}

    assert f"and in row {len(small.images)}. Give each image once" in refusal(small, truth, split)


@pytest.mark.parametrize(
    "change", [lambda ids: ids[1:], lambda ids: ids.astype(float), lambda ids: ids > 0, lambda ids: ids[None]]
)
def test_ids_of_another_shape(small, truth, change):
    images, _, ids, rows = small.rows(np.random.default_rng(3))
    with pytest.raises(ShapeError, match=r"caption_ids: .* COCO caption ids"):
        rows_of_coco(truth, len(images), change(ids), rows)
