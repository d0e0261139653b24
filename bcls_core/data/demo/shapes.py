"""One drawing for each category, in the coordinates of `brush`: u to the right, v up to -1, standing on v = 0.

The largest parts take the object's own colour, so that a colour word means what one sees; small ones (wheels, windows,
stems) have colours of their own. Every drawing stays inside the category's `EXTENT`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

from bcls_core.data.demo.brush import GLASS, LAMPLIGHT, LEAF, STEEL, TYRE, WOOD, Brush, Point
from bcls_core.data.demo.vocabulary import Category

_EYE = (28, 26, 36)
_BEAK = (250, 176, 50)


def _cat(b: Brush) -> None:
    b.wire([(0.2, -0.08), (0.34, -0.1), (0.38, -0.24), (0.33, -0.36)], 0.1, "shade")
    b.ellipse(0, -0.26, 0.27, 0.26)
    b.polygon([(-0.29, -0.66), (-0.27, -0.99), (-0.04, -0.82)])
    b.polygon([(0.29, -0.66), (0.27, -0.99), (0.04, -0.82)])
    b.polygon([(-0.23, -0.76), (-0.22, -0.9), (-0.11, -0.81)], "light", outlined=False)
    b.polygon([(0.23, -0.76), (0.22, -0.9), (0.11, -0.81)], "light", outlined=False)
    b.ellipse(0, -0.63, 0.31, 0.24)
    b.ellipse(0, -0.2, 0.13, 0.17, "light", outlined=False)
    b.ellipse(-0.12, -0.66, 0.045, 0.06, _EYE, outlined=False)
    b.ellipse(0.12, -0.66, 0.045, 0.06, _EYE, outlined=False)
    b.ellipse(0, -0.54, 0.1, 0.06, "light", outlined=False)
    b.ellipse(0, -0.57, 0.035, 0.025, _EYE, outlined=False)


def _turtle(b: Brush) -> None:
    for u in (-0.24, 0.16):
        b.polygon([(u - 0.08, -0.16), (u - 0.1, 0), (u + 0.1, 0), (u + 0.08, -0.16)], LEAF)
    b.ellipse(0.38, -0.28, 0.115, 0.11, LEAF)
    b.polygon([(0.3, -0.24), (0.4, -0.2), (0.28, -0.1), (0.16, -0.14)], LEAF)
    b.polygon([(-0.38, -0.2), (-0.49, -0.1), (-0.36, -0.12)], LEAF)
    dome: list[Point] = [(-0.06 + 0.36 * cos(pi * k / 14), -0.14 - 0.43 * sin(pi * k / 14)) for k in range(15)]
    b.polygon(dome)
    b.polygon([(-0.42, -0.14), (-0.42, -0.2), (0.3, -0.2), (0.3, -0.14)], "shade", outlined=False)
    b.ellipse(-0.06, -0.38, 0.1, 0.1, "shade", outlined=False)
    b.ellipse(-0.27, -0.3, 0.06, 0.07, "shade", outlined=False)
    b.ellipse(0.15, -0.3, 0.06, 0.07, "shade", outlined=False)
    b.ellipse(0.42, -0.31, 0.025, 0.025, _EYE, outlined=False)


def _bird(b: Brush) -> None:
    b.wire([(-0.04, -0.16), (-0.04, 0)], 0.04, _BEAK)
    b.wire([(0.06, -0.16), (0.06, 0)], 0.04, _BEAK)
    b.polygon([(-0.2, -0.3), (-0.49, -0.5), (-0.47, -0.26), (-0.2, -0.18)], "shade")
    b.polygon([(0.36, -0.66), (0.5, -0.56), (0.36, -0.52)], _BEAK)
    b.ellipse(0, -0.32, 0.29, 0.22)
    b.ellipse(0.24, -0.59, 0.18, 0.17)
    b.polygon([(-0.24, -0.54), (0.14, -0.38), (0.04, -0.22), (-0.1, -0.2)], "shade")
    b.ellipse(0.1, -0.22, 0.13, 0.09, "light", outlined=False)
    b.ellipse(0.28, -0.62, 0.04, 0.04, _EYE, outlined=False)


def _butterfly(b: Brush) -> None:
    for side in (-1, 1):
        b.wire([(0, -0.58), (0.06 * side, -0.7), (0.13 * side, -0.78)], 0.03, _EYE)
        b.polygon([(0, -0.4), (0.16 * side, -0.1), (0.32 * side, -0.02), (0.4 * side, -0.16), (0.3 * side, -0.36)])
        b.polygon(
            [(0, -0.42), (0.2 * side, -0.72), (0.38 * side, -0.78), (0.48 * side, -0.68), (0.44 * side, -0.46),
             (0.28 * side, -0.34)]
        )  # fmt: skip
        b.ellipse(0.31 * side, -0.57, 0.085, 0.095, "light", outlined=False)
        b.ellipse(0.26 * side, -0.2, 0.055, 0.06, "light", outlined=False)
    b.ellipse(0, -0.4, 0.05, 0.24, _EYE, outlined=False)


def _car(b: Brush) -> None:
    b.polygon([(-0.3, -0.3), (-0.2, -0.55), (0.14, -0.55), (0.28, -0.3)])
    b.polygon([(-0.47, -0.12), (-0.48, -0.3), (-0.4, -0.35), (0.34, -0.35), (0.47, -0.27), (0.48, -0.12)])
    b.polygon([(-0.23, -0.34), (-0.16, -0.49), (-0.04, -0.49), (-0.04, -0.34)], GLASS, outlined=False)
    b.polygon([(0.02, -0.34), (0.02, -0.49), (0.11, -0.49), (0.21, -0.34)], GLASS, outlined=False)
    b.polygon([(-0.48, -0.12), (-0.48, -0.19), (0.48, -0.19), (0.48, -0.12)], "shade", outlined=False)
    b.ellipse(0.44, -0.25, 0.035, 0.035, LAMPLIGHT, outlined=False)
    for u in (-0.26, 0.25):
        b.ellipse(u, -0.12, 0.12, 0.12, TYRE)
        b.ellipse(u, -0.12, 0.055, 0.055, STEEL, outlined=False)


def _boat(b: Brush) -> None:
    b.wire([(-0.02, -0.26), (-0.02, -0.98)], 0.045, WOOD)
    b.polygon([(0.03, -0.94), (0.4, -0.34), (0.03, -0.34)], "light")
    b.polygon([(-0.07, -0.84), (-0.07, -0.34), (-0.36, -0.34)], "light")
    b.polygon([(-0.47, -0.27), (0.47, -0.27), (0.3, -0.01), (-0.3, -0.01)])
    b.polygon([(-0.47, -0.27), (0.47, -0.27), (0.43, -0.2), (-0.43, -0.2)], "shade", outlined=False)


def _plane(b: Brush) -> None:
    b.polygon([(-0.3, -0.3), (-0.48, -0.53), (-0.36, -0.53), (-0.16, -0.33)], "shade")
    b.polygon([(-0.02, -0.3), (-0.14, -0.49), (-0.05, -0.49), (0.14, -0.32)], "shade")
    b.ellipse(0, -0.26, 0.48, 0.12)
    b.polygon([(0.1, -0.24), (-0.22, -0.02), (-0.1, -0.02), (0.24, -0.2)], "shade")
    b.polygon([(0.3, -0.34), (0.41, -0.31), (0.44, -0.27), (0.3, -0.27)], GLASS, outlined=False)
    for u in (-0.2, -0.06, 0.08, 0.21):
        b.ellipse(u, -0.28, 0.035, 0.04, GLASS, outlined=False)


def _rocket(b: Brush) -> None:
    b.polygon([(-0.12, -0.14), (0, -0.01), (0.12, -0.14)], (255, 170, 50), outlined=False)
    b.polygon([(-0.17, -0.36), (-0.3, -0.16), (-0.29, -0.03), (-0.12, -0.16)], "shade")
    b.polygon([(0.17, -0.36), (0.3, -0.16), (0.29, -0.03), (0.12, -0.16)], "shade")
    hull: list[Point] = [(-0.14, -0.12), (-0.2, -0.4), (-0.17, -0.68), (-0.08, -0.88), (0, -0.98)]
    b.polygon([*hull, *[(-u, v) for u, v in reversed(hull)]])
    b.polygon([(-0.13, -0.78), (-0.07, -0.88), (0, -0.98), (0.07, -0.88), (0.13, -0.78)], "shade", outlined=False)
    b.ellipse(0, -0.58, 0.1, 0.1, "shade", outlined=False)
    b.ellipse(0, -0.58, 0.07, 0.07, GLASS, outlined=False)


def _tree(b: Brush) -> None:
    b.polygon([(-0.07, 0), (-0.05, -0.4), (0.05, -0.4), (0.07, 0)], WOOD)
    for u, v, r in ((-0.2, -0.47, 0.21), (0.2, -0.47, 0.21), (0, -0.72, 0.265), (0, -0.5, 0.24)):
        b.ellipse(u, v, r, r)
    b.ellipse(-0.2, -0.4, 0.13, 0.1, "shade", outlined=False)
    b.ellipse(0.2, -0.4, 0.13, 0.1, "shade", outlined=False)
    b.ellipse(-0.07, -0.8, 0.12, 0.09, "light", outlined=False)


def _flower(b: Brush) -> None:
    b.wire([(0, -0.6), (0.02, -0.3), (0, 0)], 0.06, LEAF)
    b.polygon([(0, -0.1), (0.12, -0.28), (0.28, -0.3), (0.18, -0.12)], LEAF, outlined=False)
    b.polygon([(0, -0.04), (-0.12, -0.2), (-0.27, -0.2), (-0.17, -0.05)], LEAF, outlined=False)
    for k in range(6):
        angle = pi * k / 3 + pi / 6
        b.ellipse(0.18 * cos(angle), -0.68 + 0.18 * sin(angle), 0.13, 0.13)
    b.ellipse(0, -0.68, 0.11, 0.11, (255, 226, 110), outlined=False)
    b.ellipse(0, -0.68, 0.05, 0.05, (170, 104, 40), outlined=False)


def _ball(b: Brush) -> None:
    b.ellipse(0, -0.42, 0.41, 0.41)
    bow: list[Point] = [(0.41 * sin(t / 10), -0.42 + 0.41 * cos(t / 10)) for t in range(-8, 9)]
    b.polygon([*bow, *[(0.6 * u, v - 0.13) for u, v in reversed(bow)]], "shade", outlined=False)
    stripe: list[Point] = [(-0.4 + 0.08 * k, -0.46 + 0.1 * sin(pi * k / 10)) for k in range(11)]
    b.polygon([*stripe, *[(u, v - 0.13) for u, v in reversed(stripe)]], (252, 250, 244), outlined=False)
    b.ellipse(-0.14, -0.68, 0.1, 0.06, "light", outlined=False)


def _balloon(b: Brush) -> None:
    b.wire([(0, -0.3), (0.04, -0.2), (-0.04, -0.1), (0.01, 0)], 0.025, _EYE)
    b.polygon([(-0.06, -0.27), (0, -0.36), (0.06, -0.27)], "shade")
    b.ellipse(0, -0.66, 0.29, 0.33)
    b.ellipse(-0.11, -0.78, 0.07, 0.1, "light", outlined=False)


def _kite(b: Brush) -> None:
    b.wire([(0, -0.34), (0.1, -0.22), (-0.06, -0.12), (0.06, 0)], 0.03, _EYE)
    b.polygon([(0, -0.99), (0.34, -0.7), (0, -0.28), (-0.34, -0.7)])
    b.polygon([(0, -0.99), (0.34, -0.7), (0, -0.7)], "light", outlined=False)
    b.polygon([(0, -0.28), (-0.34, -0.7), (0, -0.7)], "shade", outlined=False)
    for u, v in ((0.08, -0.21), (-0.03, -0.1)):
        b.polygon([(u - 0.09, v - 0.05), (u + 0.09, v + 0.05), (u + 0.09, v - 0.05), (u - 0.09, v + 0.05)])


def _house(b: Brush) -> None:
    b.polygon([(0.2, -0.66), (0.2, -0.94), (0.33, -0.94), (0.33, -0.6)], "shade")
    b.polygon([(-0.4, 0), (-0.4, -0.54), (0.4, -0.54), (0.4, 0)])
    b.polygon([(-0.5, -0.5), (0, -0.97), (0.5, -0.5)], "shade")
    b.polygon([(-0.09, 0), (-0.09, -0.32), (0.09, -0.32), (0.09, 0)], WOOD, outlined=False)
    for u in (-0.27, 0.27):
        b.polygon([(u - 0.09, -0.2), (u - 0.09, -0.38), (u + 0.09, -0.38), (u + 0.09, -0.2)], LAMPLIGHT, outlined=False)


def _box(b: Brush) -> None:
    b.polygon([(-0.41, 0), (-0.41, -0.7), (0.41, -0.7), (0.41, 0)])
    b.polygon([(-0.46, -0.62), (-0.46, -0.85), (0.46, -0.85), (0.46, -0.62)], "shade")
    b.polygon([(-0.08, 0), (-0.08, -0.85), (0.08, -0.85), (0.08, 0)], "light", outlined=False)


def _table(b: Brush) -> None:
    for u in (-0.36, 0.36):
        b.polygon([(u - 0.06, 0), (u - 0.06, -0.5), (u + 0.06, -0.5), (u + 0.06, 0)])
    b.polygon([(-0.36, -0.34), (-0.36, -0.48), (0.36, -0.48), (0.36, -0.34)], "shade")
    b.polygon([(-0.5, -0.46), (-0.5, -0.61), (0.5, -0.61), (0.5, -0.46)])
    b.polygon([(-0.5, -0.56), (-0.5, -0.61), (0.5, -0.61), (0.5, -0.56)], "light", outlined=False)


def _umbrella(b: Brush) -> None:
    b.wire([(0, -0.98), (0, -0.07), (0.05, -0.02), (0.11, -0.03), (0.13, -0.1)], 0.05, WOOD)
    rim = [0.48 * cos(pi * k / 16) for k in range(17)]
    dome: list[Point] = [(u, -0.5 - 0.44 * sin(pi * k / 16)) for k, u in enumerate(rim)]
    b.polygon([*dome, (-0.24, -0.56), (0, -0.5), (0.24, -0.56)])
    b.polygon([(-0.48, -0.5), (-0.36, -0.79), (0, -0.94), (-0.2, -0.76), (-0.24, -0.56)], "light", outlined=False)
    b.polygon([(0.48, -0.5), (0.36, -0.79), (0, -0.94), (0.2, -0.76), (0.24, -0.56)], "shade", outlined=False)


def _star(b: Brush) -> None:
    tips: list[Point] = []
    for k in range(10):
        radius, angle = (0.5, 0.22)[k % 2], pi * k / 5
        tips.append((radius * sin(angle), -0.405 - radius * cos(angle)))
    b.polygon(tips)
    for k in range(0, 10, 2):
        b.polygon([tips[k], tips[k + 1], (0, -0.405)], "light", outlined=False)


SHAPES: dict[Category, Callable[[Brush], None]] = {
    "cat": _cat,
    "turtle": _turtle,
    "bird": _bird,
    "butterfly": _butterfly,
    "car": _car,
    "boat": _boat,
    "plane": _plane,
    "rocket": _rocket,
    "tree": _tree,
    "flower": _flower,
    "ball": _ball,
    "balloon": _balloon,
    "kite": _kite,
    "house": _house,
    "box": _box,
    "table": _table,
    "umbrella": _umbrella,
    "star": _star,
}
