from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bcls_core.data.demo.brush import RGB
from bcls_core.data.demo.draw import SMALLEST, draw, encode
from bcls_core.data.demo.scenes import DRAWING_STREAM, Scene, dice_of, make_scene


def _drawn(scene: Scene, index: int, size: int) -> Image.Image:
    return draw(scene, size, dice_of(7, "train", index, DRAWING_STREAM))


@pytest.mark.parametrize("size", [32, 64, 100, 256])
def test_pictures_have_the_size_asked_for(size: int) -> None:
    image = _drawn(make_scene(7, "train", 0), 0, size)
    assert image.size == (size, size)
    assert image.mode == "RGB"


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        _drawn(make_scene(7, "train", 0), 0, SMALLEST - 1)


def test_the_same_arguments_give_the_same_bytes() -> None:
    scene = make_scene(7, "train", 5)
    assert encode(_drawn(scene, 5, 64)) == encode(_drawn(scene, 5, 64))


def test_pose_and_tint_vary_between_pictures_of_one_scene(scenes: list[Scene]) -> None:
    scene = scenes[3]
    assert encode(_drawn(scene, 3, 64)) != encode(_drawn(scene, 4, 64))


def test_png_gives_back_the_pixels(scenes: list[Scene]) -> None:
    image = _drawn(scenes[0], 0, 64)
    decoded = Image.open(io.BytesIO(encode(image)))
    assert decoded.format == "PNG"
    assert np.array_equal(np.asarray(decoded), np.asarray(image))


def test_objects_show_their_colour(scenes: list[Scene]) -> None:
    """In the box of an object, the named colour is the palette's commonest among what the background lacks there."""
    names = list(RGB)
    palette = np.array([RGB[name] for name in names], dtype=float)
    right = total = 0
    for index, scene in enumerate(scenes[:120]):
        pixels = np.asarray(_drawn(scene, index, 96), dtype=float)
        bare = np.asarray(_drawn(Scene(scene.background, ()), index, 96), dtype=float)
        for item in scene.objects:
            left, top, right_edge, bottom = (round(edge * 96) for edge in item.box)
            box = pixels[top:bottom, left:right_edge].reshape(-1, 3)
            behind = bare[top:bottom, left:right_edge].reshape(-1, 3)
            changed = box[np.abs(box - behind).sum(axis=1) > 60]
            distance = np.linalg.norm(changed[:, None] - palette, axis=2)
            nearest = distance.argmin(axis=1)[distance.min(axis=1) < 70]
            votes = np.bincount(nearest, minlength=len(names))
            right += names[int(votes.argmax())] == item.colour
            total += 1
    assert right / total > 0.85, (right, total)


def test_backgrounds_look_different(scenes: list[Scene]) -> None:
    """A picture's nearest background, by mean colours of its bands, is its own."""

    def bands(scene: Scene, index: int) -> np.ndarray:
        return np.asarray(_drawn(scene, index, 64), dtype=float).reshape(8, 8, 64, 3).mean(axis=(1, 2)).ravel()

    means: dict[str, np.ndarray] = {}
    for background in {scene.background for scene in scenes}:
        means[background] = np.mean([bands(Scene(background, ()), index) for index in range(8)], axis=0)
    guesses = [
        min(means, key=lambda name: float(np.abs(means[name] - bands(scene, index)).sum())) == scene.background
        for index, scene in enumerate(scenes[:100])
    ]
    assert np.mean(guesses) > 0.95
