"""Scenes as pictures: drawn large, scaled down, encoded as PNG.

The same arguments give the same bytes. Pose (mirroring, a little tilt) and tint vary from scene to scene, so a category
is never one fixed patch of pixels.
"""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageDraw

from bcls_core.data.demo.backdrops import draw_backdrop
from bcls_core.data.demo.brush import RGB, Brush, Paint, Rgb
from bcls_core.data.demo.dice import Dice
from bcls_core.data.demo.scenes import Scene, SceneObject
from bcls_core.data.demo.shapes import SHAPES
from bcls_core.data.demo.vocabulary import SIDE

SMALLEST = 32
"""Side, in pixels, below which objects cannot be told apart."""

_TILT = 0.09
_TINT = 0.05
_INK = 0.011
_SHADOW_ALPHA = 62


def draw(scene: Scene, size: int, dice: Dice) -> Image.Image:
    """The scene as an RGB picture of `size` x `size` pixels.

    Raises:
        ValueError: `size` is below `SMALLEST`.
    """
    if size < SMALLEST:
        raise ValueError(f"a picture of {size} pixels is too small for its objects; draw it at {SMALLEST} or more")
    oversampling = 4 if size <= 128 else 2
    side = size * oversampling
    image = draw_backdrop(scene.background, side, dice)
    _draw_shadows(image, scene)
    canvas = ImageDraw.Draw(image)
    for item in sorted(scene.objects, key=lambda item: item.level == "ground" and item.y):
        _draw_object(canvas, item, side, dice)
    return _tinted(image.reduce(oversampling), dice)


def encode(image: Image.Image) -> bytes:
    """`image` as PNG, without metadata."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _draw_shadows(image: Image.Image, scene: Scene) -> None:
    side = image.width
    canvas = ImageDraw.Draw(image, "RGBA")
    for item in scene.objects:
        if item.level == "ground":
            reach, flat = item.box.right - item.x, 0.11 * SIDE[item.size]
            edges = [item.x - reach, item.y - flat, item.x + reach, item.y + flat]
            canvas.ellipse([edge * side for edge in edges], (20, 20, 44, _SHADOW_ALPHA))


def _draw_object(canvas: ImageDraw.ImageDraw, item: SceneObject, side: int, dice: Dice) -> None:
    brush = Brush(
        canvas,
        Paint.of(_varied(RGB[item.colour], dice)),
        foot=(item.x * side, item.y * side),
        side=SIDE[item.size] * side,
        mirrored=dice.chance(0.5),
        tilt=dice.between(-_TILT, _TILT) if item.level == "air" else 0.0,
    )
    SHAPES[item.category](brush)
    brush.finish(ink_width=_INK * side)


def _varied(rgb: Rgb, dice: Dice) -> Rgb:
    red, green, blue = (min(255, max(0, round(value * dice.between(0.93, 1.07)))) for value in rgb)
    return red, green, blue


def _tinted(image: Image.Image, dice: Dice) -> Image.Image:
    table: list[int] = []
    for _ in range(3):
        gain = dice.between(1 - _TINT, 1 + _TINT)
        table += [min(255, int(value * gain + 0.5)) for value in range(256)]
    return image.point(table)
