"""Likeness of pictures: what changes it and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from bcls_core.audit.likeness import cells_of, likeness


def test_size_brightness_and_contrast_do_not_matter(picture: Callable[..., Any]) -> None:
    original = picture(1, (160, 120))
    cells = cells_of(original)
    assert likeness(cells, cells_of(original.resize((80, 60)))) > 0.99
    assert likeness(cells, cells_of(original.point(lambda value: int(0.7 * value + 20)))) > 0.99
    assert likeness(cells, cells_of(picture(2, (160, 120)))) < 0.5


def test_colours_matter(picture: Callable[..., Any]) -> None:
    original = picture(1, (160, 120))
    swapped = Image.merge("RGB", original.split()[::-1])
    assert likeness(cells_of(original), cells_of(swapped)) < 0.9


@pytest.mark.parametrize(("other", "expected"), [((100,) * 3, 1), ((107,) * 3, 1), ((120,) * 3, 0)])
def test_pictures_of_one_grey_compare_their_greys(other: tuple[int, ...], expected: float) -> None:
    grey = cells_of(Image.new("RGB", (32, 32), (100, 100, 100)))
    assert likeness(grey, cells_of(Image.new("RGB", (50, 20), other))) == expected


def test_a_flat_picture_is_like_no_other(picture: Callable[..., Any]) -> None:
    flat, other = cells_of(Image.new("RGB", (32, 32), (128,) * 3)), cells_of(picture(1))
    assert likeness(flat, other) == likeness(other, flat) == 0
