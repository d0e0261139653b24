from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bcls_core.data.demo.brush import RGB, Brush, Paint
from bcls_core.data.demo.shapes import SHAPES
from bcls_core.data.demo.vocabulary import CATEGORIES, EXTENT, Category

SIDE = 200
NOWHERE = (1, 2, 3)


def _pixels(category: Category, *, mirrored: bool = False, tilt: float = 0.0) -> np.ndarray:
    """Mask of what is drawn, on a canvas three times as wide as the object, which stands in its middle."""
    image = Image.new("RGB", (3 * SIDE, 3 * SIDE), NOWHERE)
    foot = (1.5 * SIDE, 2.0 * SIDE)
    brush = Brush(ImageDraw.Draw(image), Paint.of(RGB["red"]), foot, SIDE, mirrored=mirrored, tilt=tilt)
    SHAPES[category](brush)
    brush.finish(ink_width=2)
    return (np.asarray(image) != NOWHERE).any(axis=2)


def test_every_category_has_a_shape() -> None:
    assert set(SHAPES) == set(CATEGORIES)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_shape_fills_its_extent_and_no_more(category: Category) -> None:
    drawn = _pixels(category)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    width, height = EXTENT[category]
    reach = 1.5 - columns[0] / SIDE, columns[-1] / SIDE - 1.5
    assert max(reach) == pytest.approx(width / 2, abs=0.05)
    assert (rows[0] / SIDE, rows[-1] / SIDE) == pytest.approx((2.0 - height, 2.0), abs=0.04)
    assert drawn.sum() > 0.25 * width * height * SIDE**2


@pytest.mark.parametrize("category", CATEGORIES)
def test_mirroring_keeps_the_place(category: Category) -> None:
    drawn, mirrored = _pixels(category), _pixels(category, mirrored=True)
    agreement = (drawn[:, ::-1] & mirrored).sum() / (drawn[:, ::-1] | mirrored).sum()
    assert agreement > 0.9


def test_tilting_turns_around_the_middle() -> None:
    drawn, tilted = _pixels("kite"), _pixels("kite", tilt=0.09)
    assert (drawn != tilted).any()
    for axis in (0, 1):
        middle, tilted_middle = (np.nonzero(mask)[axis].mean() for mask in (drawn, tilted))
        assert tilted_middle == pytest.approx(middle, abs=0.05 * SIDE)


def test_shapes_differ_from_each_other() -> None:
    masks = {category: _pixels(category) for category in CATEGORIES}
    for i, a in enumerate(CATEGORIES):
        for b in CATEGORIES[i + 1 :]:
            agreement = (masks[a] & masks[b]).sum() / (masks[a] | masks[b]).sum()
            assert agreement < 0.93, (a, b, agreement)
