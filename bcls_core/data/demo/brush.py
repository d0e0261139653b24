"""Drawing in an object's own coordinates, with one outline around all of its parts.

An object of side 1 stands on v = 0: u runs from -0.5 to 0.5 to the right, v from 0 up to -1. The brush puts that where
the scene says, mirrored and tilted a little, on a canvas several times larger than the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Literal

from PIL import ImageDraw

from bcls_core.data.demo.vocabulary import Colour

Rgb = tuple[int, int, int]
Point = tuple[float, float]
Tone = Literal["main", "shade", "light"]

RGB: dict[Colour, Rgb] = {
    "red": (222, 44, 46),
    "orange": (250, 132, 20),
    "yellow": (253, 212, 48),
    "green": (46, 160, 76),
    "blue": (40, 104, 226),
    "purple": (134, 62, 190),
    "pink": (255, 138, 190),
    "brown": (138, 86, 48),
    "white": (248, 248, 246),
    "black": (44, 44, 52),
}

WOOD: Rgb = (122, 82, 52)
GLASS: Rgb = (190, 230, 250)
TYRE: Rgb = (52, 52, 58)
STEEL: Rgb = (178, 184, 194)
LEAF: Rgb = (84, 158, 74)
LAMPLIGHT: Rgb = (255, 236, 160)

_ROUND = [(cos(2 * pi * k / 26), sin(2 * pi * k / 26)) for k in range(26)]


def blend(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`a` with this share of `b` mixed in."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


@dataclass(frozen=True, slots=True)
class Paint:
    """The tones of one object, all made from its colour, and the ink of its outline."""

    main: Rgb
    shade: Rgb
    light: Rgb
    ink: Rgb

    @classmethod
    def of(cls, colour: Rgb) -> Paint:
        """Darker and lighter tones; ink is dark around bright colours and bright around black."""
        red, green, blue = colour
        is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 60
        return cls(
            main=colour,
            shade=blend(colour, (24, 20, 48), 0.24) if not is_dark else blend(colour, (255, 255, 255), 0.13),
            light=blend(colour, (255, 255, 255), 0.4) if not is_dark else blend(colour, (255, 255, 255), 0.3),
            ink=blend(colour, (26, 20, 44), 0.66) if not is_dark else (176, 178, 192),
        )


class Brush:
    """Collects the parts of one object; `finish` draws the outline of all of them, then the parts in order."""

    def __init__(
        self, canvas: ImageDraw.ImageDraw, paint: Paint, foot: Point, side: float, *, mirrored: bool, tilt: float
    ) -> None:
        """`foot`: where u = v = 0 goes, and `side`: length of one unit, in canvas pixels; `tilt`: radians."""
        self._canvas = canvas
        self._paint = paint
        self._foot = foot
        self._side = side
        self._across = -1.0 if mirrored else 1.0
        self._turn = (cos(tilt), sin(tilt))
        self._parts: list[tuple[list[Point], Rgb]] = []
        self._silhouette: list[tuple[list[Point], bool]] = []
        self._wires: list[tuple[list[Point], Rgb, float]] = []

    def polygon(self, points: Sequence[Point], tone: Tone | Rgb = "main", *, outlined: bool = True) -> None:
        """A filled part; `outlined` parts make up the silhouette."""
        self._add(points, tone, outlined, has_corners=True)

    def ellipse(
        self, u: float, v: float, across: float, down: float, tone: Tone | Rgb = "main", *, outlined: bool = True
    ) -> None:
        """An ellipse around (u, v) with these half axes."""
        self._add([(u + across * x, v + down * y) for x, y in _ROUND], tone, outlined, has_corners=False)

    def wire(self, points: Sequence[Point], width: float, tone: Tone | Rgb = "main") -> None:
        """An open line of this width, drawn behind all parts."""
        self._wires.append((self._placed(points), self._rgb(tone), width * self._side))

    def finish(self, ink_width: float) -> None:
        """Draws everything; `ink_width` in canvas pixels."""
        for points, rgb, width in self._wires:
            self._canvas.line(points, rgb, max(1, round(width)), joint="curve")
        ink = max(1, round(2 * ink_width))
        for points, has_corners in self._silhouette:
            self._canvas.line([*points, *points[:2]], self._paint.ink, ink, joint="curve" if has_corners else None)
        for points, rgb in self._parts:
            self._canvas.polygon(points, rgb)

    def _add(self, points: Sequence[Point], tone: Tone | Rgb, outlined: bool, has_corners: bool) -> None:
        placed = self._placed(points)
        self._parts.append((placed, self._rgb(tone)))
        if outlined:
            self._silhouette.append((placed, has_corners))

    def _rgb(self, tone: Tone | Rgb) -> Rgb:
        if tone == "main":
            return self._paint.main
        if tone == "shade":
            return self._paint.shade
        if tone == "light":
            return self._paint.light
        return tone

    def _placed(self, points: Sequence[Point]) -> list[Point]:
        (x, y), (c, s) = self._foot, self._turn
        placed: list[Point] = []
        for u, v in points:
            du, dv = u * self._across, v + 0.5
            placed.append((x + self._side * (c * du - s * dv), y + self._side * (s * du + c * dv - 0.5)))
        return placed
