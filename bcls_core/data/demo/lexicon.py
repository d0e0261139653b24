"""The words captions are made of: for every fact of a scene several ways to say it, the commonest first.

No word says two things: a caption can be read back with these tables alone, which is how its truth is tested.
"""

from __future__ import annotations

from typing import NamedTuple

from bcls_core.data.demo.scenes import Predicate
from bcls_core.data.demo.vocabulary import Background, Category, Colour, Column, Group, Size


class Noun(NamedTuple):
    """One name of a kind of thing."""

    singular: str
    plural: str


class Verb(NamedTuple):
    """What an object does where it is."""

    singular: str
    participle: str


def _nouns(*singulars: str) -> tuple[Noun, ...]:
    return tuple(Noun(word, word + "s") for word in singulars)


NOUNS: dict[Category, tuple[Noun, ...]] = {
    "cat": _nouns("cat", "kitten"),
    "turtle": _nouns("turtle", "tortoise"),
    "bird": _nouns("bird", "songbird"),
    "butterfly": (Noun("butterfly", "butterflies"),),
    "car": _nouns("car", "automobile"),
    "boat": _nouns("boat", "sailboat", "sailing boat"),
    "plane": (*_nouns("plane", "airplane"), Noun("aircraft", "aircraft")),
    "rocket": _nouns("rocket", "spaceship"),
    "tree": _nouns("tree"),
    "flower": _nouns("flower", "blossom"),
    "ball": _nouns("ball"),
    "balloon": _nouns("balloon"),
    "kite": _nouns("kite"),
    "house": _nouns("house", "cottage"),
    "box": (Noun("box", "boxes"), *_nouns("package", "parcel")),
    "table": _nouns("table"),
    "umbrella": _nouns("umbrella", "parasol"),
    "star": _nouns("star"),
}

GROUP_NOUNS: dict[Group, tuple[Noun, ...]] = {
    "animal": _nouns("animal", "creature"),
    "vehicle": _nouns("vehicle"),
    "plant": _nouns("plant"),
    "toy": _nouns("toy"),
    "building": _nouns("building"),
    "thing": (),
}
"""Names that hold for a whole group; a `thing` has none of its own."""

ANY_NOUNS: tuple[Noun, ...] = _nouns("object", "thing")
"""Names that hold for everything."""

COLOUR_WORDS: dict[Colour, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chestnut"),
    "white": ("white", "ivory"),
    "black": ("black", "ebony"),
}

SIZE_WORDS: dict[Size, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
}

NUMBER_WORDS: dict[int, tuple[str, ...]] = {2: ("two", "a pair of", "a couple of"), 3: ("three",)}

SETTINGS: dict[Background, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on the grass", "in a grassy field", "among rolling hills"),
    "beach": ("on the beach", "by the sea", "at the seaside", "on the shore"),
    "snow": ("in the snow", "on a snowy day", "in a wintry landscape", "in front of snowy mountains"),
    "desert": ("in the desert", "among sand dunes", "in a sandy desert"),
    "night": ("at night", "by night", "on a dark night", "in the moonlight"),
    "city": ("in the city", "in town", "on a city street", "in front of a skyline"),
}

SCENERY: dict[Background, tuple[str, ...]] = {
    "meadow": ("a grassy meadow", "a hilly landscape"),
    "beach": ("a beach", "a seaside scene"),
    "snow": ("a snowy landscape", "a winter scene"),
    "desert": ("a desert landscape", "a desert scene"),
    "night": ("a night scene", "a dark landscape"),
    "city": ("a city street", "an urban scene"),
}

COLUMN_WORDS: dict[Column, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"),
    "middle": ("in the middle", "in the centre"),
    "right": ("on the right", "on the right side"),
}

AIR_WORDS: tuple[str, ...] = ("in the sky", "in the air")

FORWARD: dict[Predicate, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "next to": ("next to", "beside"),
    "above": ("above", "over"),
    "on": ("on", "on top of"),
}
"""Between subject and object."""

BACKWARD: dict[Predicate, tuple[str, ...]] = {
    "left of": ("to the right of", "right of"),
    "next to": ("next to", "beside"),
    "above": ("below", "under", "beneath"),
    "on": ("under", "underneath"),
}
"""Between object and subject."""

FORWARD_AFTER: dict[Predicate, tuple[str, ...]] = {
    "left of": ("to its right",),
    "next to": ("next to it", "beside it"),
    "above": ("below it", "beneath it"),
    "on": ("under it", "underneath it"),
}
"""What the object of the relation is to its subject: "a cat with a ball to its right" says cat left of ball."""

BACKWARD_AFTER: dict[Predicate, tuple[str, ...]] = {
    "left of": ("to its left",),
    "next to": ("next to it", "beside it"),
    "above": ("above it", "over it"),
    "on": ("on top of it", "on it"),
}
"""What the subject of the relation is to its object."""

_SITS, _STANDS, _LIES = Verb("sits", "sitting"), Verb("stands", "standing"), Verb("lies", "lying")
_FLIES = Verb("flies", "flying")

STANDING: dict[Category, tuple[Verb, ...]] = {
    "cat": (_SITS,),
    "turtle": (Verb("rests", "resting"), Verb("walks", "walking")),
    "bird": (_SITS, Verb("perches", "perching")),
    "butterfly": (_SITS, Verb("rests", "resting")),
    "car": (Verb("is parked", "parked"), _STANDS),
    "boat": (Verb("rests", "resting"), _LIES),
    "rocket": (_STANDS,),
    "tree": (_STANDS, Verb("grows", "growing")),
    "flower": (_STANDS, Verb("blooms", "blooming")),
    "ball": (_LIES,),
    "house": (_STANDS,),
    "box": (_STANDS, _LIES),
    "table": (_STANDS,),
    "umbrella": (_STANDS,),
}
"""On the ground or on top of something."""

AIRBORNE: dict[Category, tuple[Verb, ...]] = {
    "bird": (_FLIES,),
    "butterfly": (Verb("flutters", "fluttering"), _FLIES),
    "plane": (_FLIES,),
    "rocket": (_FLIES, Verb("soars", "soaring")),
    "balloon": (Verb("floats", "floating"), Verb("drifts", "drifting")),
    "kite": (_FLIES, Verb("soars", "soaring")),
    "star": (Verb("hangs", "hanging"), Verb("shines", "shining")),
}
