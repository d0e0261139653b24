"""Scenes: a background and one to three objects, each with a category, a colour, a size and a position.

Scene `index` of a split depends only on (seed, split, index), so any worker can make any part of the corpus, in any
order. Objects stand in one of three columns, on the ground, on top of another object, or in the air; relations between
them follow from that, so they are always true of what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from bcls_core.data.demo.dice import Dice
from bcls_core.data.demo.vocabulary import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    COLUMNS,
    EXTENT,
    LEVELS,
    RIDERS,
    SIDE,
    SIZES,
    SUPPORTS,
    THEME_WEIGHT,
    THEMES,
    Background,
    Category,
    Colour,
    Column,
    Level,
    Size,
)
from bcls_core.data.schema import SPLITS

Predicate = Literal["left of", "next to", "above", "on"]

COUNT_WEIGHTS = (0.15, 0.4, 0.45)
"""Shares of scenes with one, two and three objects, before those that do not fit are drawn again."""

STACK_CHANCE = 0.3
TWIN_CHANCE = 0.2
"""How often the second object is of the first one's category, so that captions have something to count."""

COLUMN_X: dict[Column, float] = {"left": 0.215, "middle": 0.5, "right": 0.785}
SWAY = 0.02
"""Objects stand at most this far from the middle of their column, in shares of the picture's side."""

GROUND_Y = (0.84, 0.93)
AIR_Y = (0.2, 0.26)
"""Range of the bottom of what stands on the ground, and of the middle of what is in the air."""

LEVEL_ORDER: tuple[Level, ...] = ("ground", "top", "air")

SCENE_STREAM, DRAWING_STREAM, CAPTION_STREAM = range(3)


class Box(NamedTuple):
    """Edges in shares of the picture's side, y downwards."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object; `x` is its middle and `y` its lower edge, in shares of the picture's side, y downwards."""

    category: Category
    colour: Colour
    size: Size
    column: Column
    level: Level
    x: float
    y: float

    @property
    def box(self) -> Box:
        """What the object covers."""
        width, height = (SIDE[self.size] * extent for extent in EXTENT[self.category])
        return Box(self.x - width / 2, self.y - height, self.x + width / 2, self.y)


@dataclass(frozen=True, slots=True)
class Relation:
    """`subject` and `object` are positions in `Scene.objects`."""

    subject: int
    predicate: Predicate
    object: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A background with one to three objects, no two of them in the same place."""

    background: Background
    objects: tuple[SceneObject, ...]

    @property
    def relations(self) -> tuple[Relation, ...]:
        """One of "left of", "above" and "on" for each pair, and "next to" for neighbours in a row.

        Objects in two columns are left of each other, those in one column above or on. Each holds in this direction
        only; "next to" is stated once, from left to right.
        """
        found: list[Relation] = []
        for i, a in enumerate(self.objects):
            for j, b in enumerate(self.objects):
                steps = COLUMNS.index(b.column) - COLUMNS.index(a.column)
                if steps > 0:
                    found.append(Relation(i, "left of", j))
                    if steps == 1 and a.level == b.level:
                        found.append(Relation(i, "next to", j))
                elif steps == 0 and LEVEL_ORDER.index(a.level) > LEVEL_ORDER.index(b.level):
                    found.append(Relation(i, "on" if a.level == "top" else "above", j))
        return tuple(found)


def make_scene(seed: int, split: str, index: int) -> Scene:
    """Scene `index` of `split`: a function of its arguments alone."""
    dice = dice_of(seed, split, index, SCENE_STREAM)
    background = dice.pick(BACKGROUNDS)
    while True:
        objects = _place(dice, background)
        if objects is not None:
            return Scene(background, objects)


def dice_of(seed: int, split: str, index: int, stream: int) -> Dice:
    """The choices of one scene: `stream` keeps what is in it, how it is drawn and how it is told independent."""
    return Dice(seed, SPLITS.index(split), index, stream)


def _place(dice: Dice, background: Background) -> tuple[SceneObject, ...] | None:
    """Draws the objects of a scene, or None if they do not fit beside each other."""
    count = dice.pick((1, 2, 3), COUNT_WEIGHTS)
    theme = THEMES[background]
    cells: dict[tuple[Column, Level], SceneObject] = {}
    stacked = count > 1 and dice.chance(STACK_CHANCE)
    for number in range(count):
        rider_of = next(iter(cells.values())) if stacked and number == 1 else None
        choices = SUPPORTS if stacked and number == 0 else RIDERS if rider_of else CATEGORIES
        category = dice.pick(choices, [THEME_WEIGHT if name in theme else 1.0 for name in choices])
        if number and not rider_of and dice.chance(TWIN_CHANCE):
            category = next(iter(cells.values())).category
        level = "top" if rider_of else dice.pick(LEVELS[category])
        column = rider_of.column if rider_of else dice.pick(COLUMNS)
        colour, size = dice.pick(COLOURS), dice.pick(SIZES)
        x = COLUMN_X[column] + dice.between(-SWAY, SWAY)
        if rider_of:
            x, y = rider_of.x, rider_of.box.top
            if SIZES.index(size) > SIZES.index(rider_of.size):
                return None
        elif level == "air":
            y = dice.between(*AIR_Y) + SIDE[size] * EXTENT[category][1] / 2
        else:
            y = dice.between(*GROUND_Y)
        new = SceneObject(category, colour, size, column, level, round(x, 4), round(y, 4))
        if (column, level) in cells or any(_collide(new, other) for other in cells.values() if other != rider_of):
            return None
        cells[column, level] = new
    return tuple(cells.values())


def _collide(a: SceneObject, b: SceneObject) -> bool:
    p, q = a.box, b.box
    return p.left < q.right and q.left < p.right and p.top < q.bottom and q.top < p.bottom
