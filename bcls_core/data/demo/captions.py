"""Five captions for a scene, each true of it, none saying everything.

A caption picks a frame (a list, a relation, positions, a count, ...), decides how much it mentions (objects, colours,
sizes, background), and says each fact in one of several ways. The choices are a function of the dice alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from bcls_core.data.demo.dice import Dice
from bcls_core.data.demo.lexicon import (
    AIR_WORDS,
    AIRBORNE,
    ANY_NOUNS,
    BACKWARD,
    BACKWARD_AFTER,
    COLOUR_WORDS,
    COLUMN_WORDS,
    FORWARD,
    FORWARD_AFTER,
    GROUP_NOUNS,
    NOUNS,
    NUMBER_WORDS,
    SCENERY,
    SETTINGS,
    SIZE_WORDS,
    STANDING,
    Noun,
    Verb,
)
from bcls_core.data.demo.scenes import Scene, SceneObject
from bcls_core.data.demo.vocabulary import COLUMNS, GROUP_OF

CAPTIONS_PER_SCENE = 5

_FIRST_WORD_WEIGHT = 3.0
_GROUP_NOUN_CHANCE = 0.06
_SETTING_CHANCE = 0.6
_WHOLE_CAST_CHANCE = 0.75
_MEDIUM_SIZE_CHANCE = 0.25


def tell(scene: Scene, dice: Dice) -> list[str]:
    """`CAPTIONS_PER_SCENE` different captions of the scene."""
    captions: list[str] = []
    used: Counter[int] = Counter()
    while len(captions) < CAPTIONS_PER_SCENE:
        number = dice.pick(range(len(_FRAMES)), [weight / (1 + 3 * used[k]) for k, (weight, _) in enumerate(_FRAMES)])
        words = _FRAMES[number][1](_Teller(scene, dice))
        if words is None:
            continue
        caption = words[0].upper() + words[1:] + "."
        if caption not in captions:
            captions.append(caption)
            used[number] += 1
    return captions


class _Teller:
    """Words for the parts of one scene, with the amount of detail of one caption."""

    def __init__(self, scene: Scene, dice: Dice) -> None:
        self.scene = scene
        self.dice = dice
        self._colour_chance = dice.pick((1.0, 0.75, 0.2), (6, 3, 1))
        self._size_chance = dice.pick((0.8, 0.3, 0.0), (3, 3, 4))

    def word(self, words: Sequence[str]) -> str:
        """One of `words`, the first one more often."""
        return self.dice.pick(words, [_FIRST_WORD_WEIGHT, *[1.0] * (len(words) - 1)])

    def name(self, item: SceneObject) -> str:
        """The object with its article and some of its attributes."""
        nouns = NOUNS[item.category]
        if self.dice.chance(_GROUP_NOUN_CHANCE):
            nouns = GROUP_NOUNS[GROUP_OF[item.category]] or nouns
        words = [self.word([noun.singular for noun in nouns])]
        if self.dice.chance(self._colour_chance):
            words.insert(0, self.word(COLOUR_WORDS[item.colour]))
        if self.dice.chance(self._size_chance * (_MEDIUM_SIZE_CHANCE if item.size == "medium" else 1.0)):
            words.insert(0, self.word(SIZE_WORDS[item.size]))
        return _article(words[0]) + " ".join(words)

    def pair(self, a: SceneObject, b: SceneObject) -> tuple[str, str]:
        """Names of two objects, the second as "another ..." where they would sound the same."""
        first, second = self.name(a), self.name(b)
        return first, _another(second) if first == second else second

    def names(self, items: Sequence[SceneObject]) -> list[str]:
        """Names in random order; all objects of one category together as "two cats", where all are meant."""
        told: list[str] = []
        rest = self.dice.shuffled(items)
        for category, count in Counter(item.category for item in items).items():
            same = [item for item in self.scene.objects if item.category == category]
            if count > 1 and count == len(same):
                told.append(self.number(count, NOUNS[category], same))
                rest = [item for item in rest if item.category != category]
        for item in rest:
            name = self.name(item)
            told.append(_another(name) if name in told else name)
        return told

    def number(self, count: int, nouns: Sequence[Noun], items: Sequence[SceneObject]) -> str:
        """ "two cats", or "two red cats" where all of `items` are red."""
        noun = self.word([noun.plural for noun in nouns])
        if len({item.colour for item in items}) == 1 and self.dice.chance(self._colour_chance):
            noun = f"{self.word(COLOUR_WORDS[items[0].colour])} {noun}"
        return f"{self.word(NUMBER_WORDS[count])} {noun}"

    def cast(self, least: int = 1) -> list[SceneObject]:
        """The objects a caption mentions: usually all of them."""
        items = self.dice.shuffled(self.scene.objects)
        keep = len(items) if self.dice.chance(_WHOLE_CAST_CHANCE) else len(items) - 1
        return items[: max(keep, least)]

    def verb(self, item: SceneObject) -> Verb:
        """What the object does."""
        return self.dice.pick((AIRBORNE if item.level == "air" else STANDING)[item.category])

    def setting(self) -> str:
        """ " in the snow", or nothing."""
        return f" {self.word(SETTINGS[self.scene.background])}" if self.dice.chance(_SETTING_CHANCE) else ""

    def column(self, item: SceneObject) -> str:
        """ " on the left"."""
        return f" {self.word(COLUMN_WORDS[item.column])}"

    def position(self, item: SceneObject) -> str:
        """ " on the left", or " in the sky"."""
        if item.level == "air" and self.dice.chance(0.5):
            return f" {self.word(AIR_WORDS)}"
        return self.column(item)


def _listing(t: _Teller) -> str:
    names = t.names(t.cast())
    there = "there are " if names[0].startswith(_PLURAL_STARTS) else "there is "
    opening = t.dice.pick(("", there, "we can see ", "a picture of ", "a drawing of "))
    return f"{opening}{_joined(names)}{t.setting()}"


def _scenery(t: _Teller) -> str:
    return f"{t.word(SCENERY[t.scene.background])} with {_joined(t.names(t.cast()))}"


def _posture(t: _Teller) -> str:
    item = t.dice.pick(t.scene.objects)
    does = t.verb(item)
    if t.dice.chance(0.3):
        return f"{t.word(SETTINGS[t.scene.background])} {does.singular} {t.name(item)}"
    if t.dice.chance(0.3):
        return f"{t.word(SETTINGS[t.scene.background])}, {t.name(item)} {does.singular}{t.position(item)}"
    return f"{t.name(item)} {does.singular}{t.position(item)}{t.setting()}"


def _positions(t: _Teller) -> str | None:
    items = t.dice.shuffled(t.scene.objects)
    if len(items) < 2 or items[0].column == items[1].column:
        return None
    a, b = items[:2]
    first, second = t.pair(a, b)
    if t.dice.chance(0.5):
        return f"{first}{t.position(a)} and {second}{t.column(b)}{t.setting()}"
    link = t.dice.pick((" and ", ", while "))
    return f"{first} {t.verb(a).singular}{t.position(a)}{link}{second} {t.verb(b).singular}{t.column(b)}"


def _relation(t: _Teller) -> str | None:
    if not t.scene.relations:
        return None
    relation = t.dice.pick(t.scene.relations)
    a, b = t.scene.objects[relation.subject], t.scene.objects[relation.object]
    words = FORWARD
    if t.dice.chance(0.4):
        a, b, words = b, a, BACKWARD
    first, second = t.pair(a, b)
    link = t.word(words[relation.predicate])
    if t.dice.chance(0.2):
        return f"{link} {second} {t.verb(a).singular} {first}{t.setting()}"
    does = t.dice.pick(("", f" {t.verb(a).participle}", f" {t.verb(a).singular}"), (3, 1, 2))
    others = [item for item in t.scene.objects if item not in (a, b)]
    tail = ""
    if others and t.dice.chance(0.6):
        tail = f", with {t.name(others[0])}{t.position(others[0])}"
    return f"{first}{does} {link} {second}{t.setting()}{tail}"


def _companion(t: _Teller) -> str | None:
    if not t.scene.relations:
        return None
    relation = t.dice.pick(t.scene.relations)
    a, b = t.scene.objects[relation.subject], t.scene.objects[relation.object]
    words = FORWARD_AFTER
    if t.dice.chance(0.5):
        a, b, words = b, a, BACKWARD_AFTER
    first, second = t.pair(a, b)
    return f"{first} with {second} {t.word(words[relation.predicate])}{t.setting()}"


def _between(t: _Teller) -> str | None:
    row = sorted(t.scene.objects, key=lambda item: COLUMNS.index(item.column))
    if len(row) < 3 or len({item.column for item in row}) < 3 or len({item.level for item in row}) > 1:
        return None
    left, middle, right = row
    a, b = t.pair(*t.dice.shuffled((left, right)))
    does = t.dice.pick(("", f" {t.verb(middle).singular}", f" {t.verb(middle).participle}"))
    return f"{t.name(middle)}{does} between {a} and {b}{t.setting()}"


def _contrast(t: _Teller) -> str | None:
    twins = [item for item in t.scene.objects if item.category == t.scene.objects[0].category]
    if len(twins) != 2 or twins[0].colour == twins[1].colour:
        return None
    first, second = (t.word(COLOUR_WORDS[item.colour]) for item in t.dice.shuffled(twins))
    many = f"{t.word(NUMBER_WORDS[2])} {t.word([noun.plural for noun in NOUNS[twins[0].category]])}"
    return f"{many}{t.setting()}, one {first} and one {second}"


def _count(t: _Teller) -> str | None:
    everybody = t.scene.objects
    groups = Counter(GROUP_OF[item.category] for item in everybody)
    group, count = groups.most_common(1)[0]
    if count > 1 and GROUP_NOUNS[group]:
        members = [item for item in everybody if GROUP_OF[item.category] == group]
        others = [t.name(item) for item in everybody if GROUP_OF[item.category] != group]
        return f"{_joined([t.number(count, GROUP_NOUNS[group], members), *others])}{t.setting()}"
    names = t.names(everybody)
    if len(names) < 2:
        return None
    many = f"{t.word(NUMBER_WORDS[len(everybody)])} {t.word([noun.plural for noun in ANY_NOUNS])}"
    return f"{many}{t.setting()}: {_joined(names)}"


_FRAMES: tuple[tuple[float, Callable[[_Teller], str | None]], ...] = (
    (3.0, _listing),
    (1.5, _scenery),
    (1.0, _posture),
    (1.5, _positions),
    (4.0, _relation),
    (1.5, _companion),
    (1.5, _between),
    (1.0, _contrast),
    (0.8, _count),
)

_PLURAL_STARTS = ("two ", "three ", "a pair ", "a couple ")


def _article(word: str) -> str:
    return "an " if word[0] in "aeiou" else "a "


def _another(name: str) -> str:
    return f"another {name.split(' ', 1)[1]}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
