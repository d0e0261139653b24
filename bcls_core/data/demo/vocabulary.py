"""What a scene can be made of, and how often each thing occurs.

Categories belong to a few groups, and every background favours some categories, as in real pictures: two scenes of one
background are more alike than chance, without either being a copy of the other.
"""

from __future__ import annotations

from typing import Literal, get_args

Background = Literal["meadow", "beach", "snow", "desert", "night", "city"]
Group = Literal["animal", "vehicle", "plant", "toy", "building", "thing"]
Category = Literal[
    "cat", "turtle", "bird", "butterfly",
    "car", "boat", "plane", "rocket",
    "tree", "flower",
    "ball", "balloon", "kite",
    "house",
    "box", "table", "umbrella", "star",
]  # fmt: skip
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black"]
Size = Literal["small", "medium", "large"]
Column = Literal["left", "middle", "right"]
Level = Literal["ground", "top", "air"]
"""Where an object rests: on the ground, on top of another object, or nowhere (it flies or hangs)."""

BACKGROUNDS: tuple[Background, ...] = get_args(Background)
CATEGORIES: tuple[Category, ...] = get_args(Category)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
COLUMNS: tuple[Column, ...] = get_args(Column)

GROUPS: dict[Group, tuple[Category, ...]] = {
    "animal": ("cat", "turtle", "bird", "butterfly"),
    "vehicle": ("car", "boat", "plane", "rocket"),
    "plant": ("tree", "flower"),
    "toy": ("ball", "balloon", "kite"),
    "building": ("house",),
    "thing": ("box", "table", "umbrella", "star"),
}
GROUP_OF: dict[Category, Group] = {category: group for group, members in GROUPS.items() for category in members}

LEVELS: dict[Category, tuple[Level, ...]] = {
    "cat": ("ground",),
    "turtle": ("ground",),
    "bird": ("ground", "air"),
    "butterfly": ("air",),
    "car": ("ground",),
    "boat": ("ground",),
    "plane": ("air",),
    "rocket": ("ground", "air"),
    "tree": ("ground",),
    "flower": ("ground",),
    "ball": ("ground",),
    "balloon": ("air",),
    "kite": ("air",),
    "house": ("ground",),
    "box": ("ground",),
    "table": ("ground",),
    "umbrella": ("ground",),
    "star": ("air",),
}
"""Where an object can be when nothing holds it."""

SUPPORTS: tuple[Category, ...] = ("box", "table", "car")
RIDERS: tuple[Category, ...] = ("cat", "turtle", "bird", "butterfly", "ball", "flower", "box")

EXTENT: dict[Category, tuple[float, float]] = {
    "cat": (0.84, 1.0),
    "turtle": (1.0, 0.58),
    "bird": (1.0, 0.8),
    "butterfly": (1.0, 0.8),
    "car": (1.0, 0.56),
    "boat": (0.96, 1.0),
    "plane": (1.0, 0.54),
    "rocket": (0.62, 1.0),
    "tree": (0.84, 1.0),
    "flower": (0.62, 1.0),
    "ball": (0.84, 0.84),
    "balloon": (0.62, 1.0),
    "kite": (0.7, 1.0),
    "house": (1.0, 1.0),
    "box": (0.92, 0.86),
    "table": (1.0, 0.62),
    "umbrella": (1.0, 1.0),
    "star": (0.96, 0.92),
}
"""Width and height of an object of side 1."""

SIDE: dict[Size, float] = {"small": 0.19, "medium": 0.275, "large": 0.385}
"""Side of an object, as a share of the picture's side."""

THEMES: dict[Background, tuple[Category, ...]] = {
    "meadow": ("tree", "flower", "butterfly", "cat", "kite", "table"),
    "beach": ("boat", "umbrella", "ball", "kite", "turtle"),
    "snow": ("house", "tree", "box", "star", "bird"),
    "desert": ("car", "turtle", "rocket", "plane", "balloon"),
    "night": ("star", "rocket", "house", "cat", "boat"),
    "city": ("car", "bird", "house", "balloon", "umbrella", "plane"),
}
THEME_WEIGHT = 3.0
"""How much likelier a category is before a background that favours it."""
