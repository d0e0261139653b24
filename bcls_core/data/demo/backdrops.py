"""One drawing for each background: sky, ground and a few soft details, never anything a caption could name.

Coordinates are shares of the picture's side, y downwards; the horizon lies above where objects stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import pi, sin

from PIL import Image, ImageDraw

from bcls_core.data.demo.brush import Point, Rgb, blend
from bcls_core.data.demo.dice import Dice
from bcls_core.data.demo.vocabulary import Background


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Where one background is drawn: a square canvas of `side` pixels and the choices of this picture."""

    canvas: ImageDraw.ImageDraw
    side: int
    dice: Dice

    def polygon(self, points: list[Point], rgb: Rgb) -> None:
        """A filled area."""
        self.canvas.polygon([(x * self.side, y * self.side) for x, y in points], rgb)

    def rectangle(self, left: float, top: float, width: float, height: float, rgb: Rgb) -> None:
        """A filled rectangle."""
        right, bottom = left + width, top + height
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], rgb)

    def ellipse(self, x: float, y: float, across: float, down: float, rgb: Rgb) -> None:
        """An ellipse around (x, y) with these half axes."""
        s = self.side
        self.canvas.ellipse([(x - across) * s, (y - down) * s, (x + across) * s, (y + down) * s], rgb)

    def ridge(self, y: float, height: float, waves: float, rgb: Rgb) -> None:
        """Everything below a wavy line around `y`."""
        phase = self.dice.between(0, 2 * pi)
        line = [(k / 16, y + height * sin(phase + 2 * pi * waves * k / 16)) for k in range(17)]
        self.polygon([*line, (1.0, 1.0), (0.0, 1.0)], rgb)

    def specks(self, count: int, top: float, bottom: float, radius: float, rgb: Rgb) -> None:
        """Dots strewn between two heights."""
        for _ in range(count):
            self.ellipse(self.dice.unit(), self.dice.between(top, bottom), radius, radius, rgb)

    def clouds(self, count: int, rgb: Rgb) -> None:
        """Small clouds in the upper sky."""
        for _ in range(count):
            x, y = self.dice.unit(), self.dice.between(0.06, 0.36)
            for dx, dy, r in ((-0.07, 0.012, 0.032), (0.0, 0.0, 0.048), (0.07, 0.014, 0.034)):
                self.ellipse(x + dx, y + dy, r * 1.6, r * 0.8, rgb)


def _meadow(b: Backdrop) -> None:
    b.clouds(2, (238, 247, 253))
    b.ridge(0.56, 0.05, 0.8, (168, 208, 150))
    b.ridge(0.64, 0.03, 1.2, (146, 200, 112))
    b.ridge(0.76, 0.015, 0.7, (128, 188, 92))
    b.specks(18, 0.7, 0.99, 0.006, (110, 170, 76))
    b.specks(8, 0.72, 0.99, 0.007, (236, 240, 200))


def _beach(b: Backdrop) -> None:
    b.rectangle(0, 0.5, 1, 0.5, (74, 168, 206))
    for _ in range(7):
        x, y = b.dice.unit(), b.dice.between(0.52, 0.66)
        b.ellipse(x, y, 0.07, 0.006, (150, 212, 230))
    b.ridge(0.705, 0.014, 1.4, (240, 248, 248))
    b.ridge(0.725, 0.014, 1.4, (240, 216, 160))
    b.specks(16, 0.78, 0.99, 0.005, (222, 192, 134))


def _snow(b: Backdrop) -> None:
    b.polygon([(0, 0.62), (0.2, 0.38), (0.42, 0.6), (0.66, 0.34), (1, 0.64)], (178, 192, 214))
    b.polygon([(0.13, 0.465), (0.2, 0.38), (0.27, 0.45)], (244, 248, 252))
    b.polygon([(0.57, 0.435), (0.66, 0.34), (0.75, 0.42)], (244, 248, 252))
    b.ridge(0.6, 0.025, 0.8, (222, 232, 243))
    b.ridge(0.71, 0.02, 1.1, (238, 244, 250))
    b.specks(34, 0.0, 0.95, 0.008, (255, 255, 255))


def _desert(b: Backdrop) -> None:
    b.ellipse(b.dice.between(0.1, 0.9), 0.58, 0.13, 0.13, (255, 226, 168))
    b.ridge(0.56, 0.045, 0.7, (238, 176, 110))
    b.ridge(0.64, 0.04, 0.9, (228, 160, 92))
    b.ridge(0.76, 0.02, 0.6, (218, 146, 80))
    b.specks(12, 0.8, 0.99, 0.005, (200, 128, 68))


def _night(b: Backdrop) -> None:
    b.specks(36, 0.0, 0.52, 0.006, (214, 218, 244))
    x, y = b.dice.between(0.1, 0.9), b.dice.between(0.07, 0.12)
    b.ellipse(x, y, 0.05, 0.05, (236, 232, 206))
    b.ellipse(x + 0.025, y - 0.012, 0.043, 0.043, (28, 32, 74))
    b.ridge(0.6, 0.035, 0.9, (38, 50, 88))
    b.ridge(0.7, 0.02, 1.2, (46, 66, 96))
    b.specks(12, 0.76, 0.99, 0.005, (62, 86, 116))


def _city(b: Backdrop) -> None:
    x = -b.dice.between(0.0, 0.12)
    while x < 1:
        width, top = b.dice.between(0.1, 0.17), b.dice.between(0.3, 0.5)
        wall = blend((150, 156, 176), (180, 182, 198), b.dice.unit())
        b.rectangle(x, top, width, 0.7 - top, wall)
        for row in range(4):
            for column in range(2):
                u, v = x + width * (0.18 + 0.4 * column), top + 0.04 + 0.07 * row
                b.rectangle(u, v, 0.03, 0.03, blend(wall, (250, 240, 200), 0.45))
        x += width + 0.008
    b.rectangle(0, 0.67, 1, 0.33, (196, 194, 192))
    b.rectangle(0, 0.745, 1, 0.255, (112, 114, 124))
    for k in range(5):
        b.rectangle(0.22 * k, 0.955, 0.12, 0.017, (216, 214, 200))


SKY: dict[Background, tuple[Rgb, Rgb]] = {
    "meadow": ((116, 186, 240), (222, 240, 250)),
    "beach": ((104, 192, 242), (244, 246, 232)),
    "snow": ((170, 188, 214), (226, 232, 240)),
    "desert": ((250, 186, 126), (254, 232, 190)),
    "night": ((18, 20, 54), (72, 74, 128)),
    "city": ((164, 190, 220), (236, 222, 214)),
}
"""Colours of the sky at the top and at the horizon."""

BACKDROPS: dict[Background, Callable[[Backdrop], None]] = {
    "meadow": _meadow,
    "beach": _beach,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
    "city": _city,
}


@lru_cache(maxsize=32)
def _sky(background: Background, side: int) -> Image.Image:
    top, horizon = SKY[background]
    strip = Image.new("RGB", (1, side))
    for y in range(side):
        strip.putpixel((0, y), blend(top, horizon, min(1.0, y / (0.62 * side))))
    return strip.resize((side, side))


def draw_backdrop(background: Background, side: int, dice: Dice) -> Image.Image:
    """A new square RGB canvas of `side` pixels with the background on it."""
    image = _sky(background, side).copy()
    BACKDROPS[background](Backdrop(ImageDraw.Draw(image), side, dice))
    return image
