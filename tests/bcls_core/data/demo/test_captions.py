"""Captions are read back with the lexicon's words, and what they say is held against the scene's objects and boxes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import pytest

from bcls_core.data.demo import lexicon
from bcls_core.data.demo.captions import CAPTIONS_PER_SCENE, tell
from bcls_core.data.demo.dice import Dice
from bcls_core.data.demo.scenes import CAPTION_STREAM, Scene, SceneObject, dice_of
from bcls_core.data.demo.vocabulary import CATEGORIES, GROUPS

Told = list[tuple[Scene, list[str]]]
Holds = Callable[[SceneObject], bool]

GEOMETRY: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left of": lambda a, b: a.x < b.x - 0.15,
    "above": lambda a, b: abs(a.x - b.x) < 0.1 and a.y < b.box.top - 1e-9,
    "on": lambda a, b: abs(a.x - b.x) < 0.1 and abs(a.y - b.box.top) < 1e-9,
    "next to": lambda a, b: 0.15 < abs(a.x - b.x) < 0.4 and min(a.y, b.y) > max(a.box.top, b.box.top),
}
COLUMN_AT: dict[str, Holds] = {
    "left": lambda o: o.x < 0.35,
    "middle": lambda o: 0.4 < o.x < 0.6,
    "right": lambda o: o.x > 0.65,
}

# One letter a phrase: Noun phrase, Verb, Place, Relation, After ("to its left"), Background, Colour standing alone.
LIST = "N(?:,N)*(?:&N)?"
FRAMES = re.compile(
    f"{LIST}B?|Bw{LIST}|BVN|B,NVP|NVPB?|NP&NPB?|NVP,?&NVP|RNVNB?|NV?RNB?(?:,wNP)?|NwNAB?|NV?tN&NB?|NB?,1C&1C|NB?:N(?:,N)*&N"
)
SILENT = ("a", "an", "another", "there", "is", "are", "we", "can", "see", "picture", "drawing", "of")
LINKS = {"with": "w", "and": "&", "while": "&", "between": "t", "one": "1", ",": ",", ":": ":"}


def _learned() -> dict[str, list[tuple[str, Any]]]:
    """Every phrase, with the kind of phrase it is and all that it can mean."""
    words: dict[str, list[tuple[str, Any]]] = {word: [("", None)] for word in SILENT}
    words |= {word: [(letter, None)] for word, letter in LINKS.items()}

    def learn(letter: str, phrases: tuple[str, ...], meaning: Any) -> None:
        for phrase in phrases:
            words.setdefault(phrase, []).append((letter, meaning))

    kinds = [(lexicon.ANY_NOUNS, set(CATEGORIES))]
    kinds += [(nouns, {category}) for category, nouns in lexicon.NOUNS.items()]
    kinds += [(nouns, set(GROUPS[group])) for group, nouns in lexicon.GROUP_NOUNS.items()]
    for nouns, categories in kinds:
        learn("n", tuple(noun.singular for noun in nouns), (categories, False))
        learn("n", tuple(noun.plural for noun in nouns), (categories, True))
    for letter, table in (
        ("C", lexicon.COLOUR_WORDS),
        ("s", lexicon.SIZE_WORDS),
        ("#", lexicon.NUMBER_WORDS),
        ("B", lexicon.SETTINGS),
        ("B", lexicon.SCENERY),
    ):
        for meaning, phrases in table.items():
            learn(letter, phrases, meaning)
    for column, phrases in lexicon.COLUMN_WORDS.items():
        learn("P", phrases, COLUMN_AT[column])
    learn("P", lexicon.AIR_WORDS, lambda o: o.y < 0.5)
    for letter, forward, backward in (
        ("R", lexicon.FORWARD, lexicon.BACKWARD),
        ("A", lexicon.FORWARD_AFTER, lexicon.BACKWARD_AFTER),
    ):
        for predicate, holds in GEOMETRY.items():
            learn(letter, forward[predicate], holds)  # type: ignore[index]
            learn(letter, backward[predicate], lambda a, b, holds=holds: holds(b, a))  # type: ignore[index]
    for table_of_verbs, in_air in ((lexicon.AIRBORNE, True), (lexicon.STANDING, False)):
        for verb in {verb for choices in table_of_verbs.values() for verb in choices}:
            learn("V", tuple(verb), in_air)
    return words


WORDS = _learned()
PHRASE = re.compile(" *(" + "|".join(rf"{re.escape(word)}(?![\w-])" for word in sorted(WORDS, key=len)[::-1]) + ")")


@dataclass
class Mention:
    """A noun phrase and all that the caption says of it alone."""

    holds: list[Holds] = field(default_factory=list)
    count: int = 1

    def fits(self, item: SceneObject) -> bool:
        return all(holds(item) for holds in self.holds)


class Reading:
    """What a caption says; `code` is its sequence of phrases, one letter each."""

    def __init__(self, caption: str) -> None:
        self.code = ""
        self.said: list[list[Any]] = []  # aligned with `code`
        self._read(caption[0].lower() + caption[1:].removesuffix("."))
        assert FRAMES.fullmatch(self.code), (self.code, caption)
        self.mentions = {k: said[0] for k, said in enumerate(self.said) if self.code[k] == "N"}
        self.relations: list[tuple[int, int, list[Any]]] = []
        self._relate()

    def _read(self, text: str) -> None:
        mention = Mention()
        while text:
            match = PHRASE.match(text)
            assert match, f"no known word at {text!r}"
            meanings, text = WORDS[match.group(1)], text[match.end() :]
            letter, meaning = meanings[0]
            if letter == "#":
                mention.count = meaning
            elif letter == "s":
                mention.holds.append(lambda o, size=meaning: o.size == size)
            elif letter == "C" and not self.code.endswith("1"):
                mention.holds.append(lambda o, colour=meaning: o.colour == colour)
            elif letter == "n":
                mention.holds.append(lambda o, categories=meaning[0]: o.category in categories)
                assert any(is_plural == (mention.count > 1) for _, (_, is_plural) in meanings), text
                self._say("N", [mention])
                mention = Mention()
            elif letter:
                self._say(letter, [said for _, said in meanings])

    def _say(self, letter: str, said: list[Any]) -> None:
        self.code += letter
        self.said.append(said)

    def _relate(self) -> None:
        code, said = self.code, self.said
        for match in re.finditer("V", code):
            k = match.start()
            of = k + 1 if k == 0 or code[k - 1] == "B" or code.startswith("R") else k - 1
            self.mentions[of].holds.append(lambda o, in_air=tuple(said[k]): (o.level == "air") in in_air)
        for match in re.finditer("NV?P", code):
            self.mentions[match.start()].holds.append(said[match.end() - 1][0])
        if code.startswith("R"):
            self.relations.append((3, 1, said[0]))
        for match in re.finditer("NV?(R)N", code):
            self.relations.append((match.start(), match.end() - 1, said[match.start(1)]))
        for match in re.finditer("NwNA", code):
            self.relations.append((match.start(), match.start() + 2, said[match.start() + 3]))
        for match in re.finditer("NV?tN&N", code):
            middle, a, b = match.start(), match.end() - 3, match.end() - 1
            self.relations.append(
                (a, b, [lambda p, q: {p.x < 0.35, q.x < 0.35} == {p.x > 0.65, q.x > 0.65} == {True, False}])
            )
            self.mentions[middle].holds.append(COLUMN_AT["middle"])

    def is_true_of(self, scene: Scene) -> bool:
        if any(said != [scene.background] for letter, said in zip(self.code, self.said, strict=True) if letter == "B"):
            return False
        for mention in self.mentions.values():
            if mention.count > 1 and mention.count != sum(mention.fits(item) for item in scene.objects):
                return False
        if "1" in self.code:
            twins = sorted(item.colour for item in scene.objects if self.mentions[0].fits(item))
            if twins != sorted(said[0] for letter, said in zip(self.code, self.said, strict=True) if letter == "C"):
                return False
        single = [k for k, mention in self.mentions.items() if mention.count == 1]
        return any(
            self._fits(dict(zip(single, choice, strict=True))) for choice in permutations(scene.objects, len(single))
        )

    def _fits(self, chosen: dict[int, SceneObject]) -> bool:
        return all(self.mentions[k].fits(item) for k, item in chosen.items()) and all(
            any(holds(chosen[a], chosen[b]) for holds in ways) for a, b, ways in self.relations
        )


def test_every_caption_is_true_of_its_scene(told: Told) -> None:
    for scene, captions in told:
        for caption in captions:
            assert Reading(caption).is_true_of(scene), (caption, scene)


def test_captions_are_seldom_true_of_other_scenes(told: Told) -> None:
    """The reader above can say no: it is no rubber stamp, and captions do tell scenes apart."""
    claims = [
        Reading(caption).is_true_of(told[(k + 1) % len(told)][0])
        for k, (_, captions) in enumerate(told)
        for caption in captions
    ]
    assert sum(claims) / len(claims) < 0.01


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("A red cat on a blue box in the snow.", "A blue box on a red cat."),
        ("A kitten sits on top of a parcel.", "A kitten flies on top of a parcel."),
        ("Two animals in the snow.", "Three animals in the snow."),
        ("A bird with a box to its left.", "A bird with a box to its right."),
        ("To the right of a scarlet kitten flies a bird.", "To the left of a scarlet kitten flies a bird."),
        ("Three objects: a cat, a box and a bird.", "Two objects: a cat and a bird."),
        ("A cat on the left and a bird on the right.", "A cat in the sky and a bird on the right."),
        ("A small azure package under a creature.", "A small azure package under a bird."),
        ("A picture of a box on a snowy day.", "A picture of a box at night."),
        ("There is a cat, a bird and a box.", "There is a cat and another cat."),
    ],
)
def test_the_reader_tells_true_from_false(true: str, false: str) -> None:
    box = SceneObject("box", "blue", "small", "left", "ground", 0.2, 0.9)
    cat = SceneObject("cat", "red", "small", "left", "top", 0.2, box.box.top)
    bird = SceneObject("bird", "black", "large", "right", "air", 0.8, 0.3)
    scene = Scene("snow", (box, cat, bird))
    assert Reading(true).is_true_of(scene)
    assert not Reading(false).is_true_of(scene)


def test_a_scene_has_five_different_captions(told: Told) -> None:
    for _, captions in told:
        assert len(captions) == len(set(captions)) == CAPTIONS_PER_SCENE


def test_captions_are_a_function_of_the_dice(told: Told) -> None:
    for k, (scene, captions) in enumerate(told[:50]):
        assert tell(scene, dice_of(7, "train", k, CAPTION_STREAM)) == captions
    scene, captions = told[0]
    assert tell(scene, Dice(1)) != captions


def test_sentences_look_like_sentences(told: Told) -> None:
    for caption in (caption for _, captions in told for caption in captions):
        assert re.fullmatch(r"[A-Z][a-z:, -]+[a-z]\.", caption), caption
        assert not re.search(
            r"\b(a|an|another) (a|an|another)\b|  |\ba [aeiou]|\ban [^aeiou]|there is (two|three)", caption
        )


def test_captions_vary(told: Told) -> None:
    captions = [caption for _, five in told for caption in five]
    assert len(set(captions)) > 0.95 * len(captions)
    assert len({word for caption in captions for word in re.findall(r"[a-z-]+", caption.lower())}) > 180
    frames = Counter(Reading(caption).code for caption in captions)
    assert len(frames) > 30
    assert frames.most_common(1)[0][1] < 0.2 * len(captions)
    assert 6 < sum(len(caption.split()) for caption in captions) / len(captions) < 14


def test_captions_leave_things_out(told: Told) -> None:
    """Between a third and nine tenths of the captions mention every object; some name no colour; some no background."""
    full, colourless, nowhere, total = 0, 0, 0, 0
    colours = {word for words in lexicon.COLOUR_WORDS.values() for word in words}
    for scene, captions in told:
        for caption in captions:
            reading = Reading(caption)
            full += sum(mention.count for mention in reading.mentions.values()) >= len(scene.objects)
            colourless += not colours & set(re.findall(r"[a-z]+", caption.lower()))
            nowhere += "B" not in reading.code
            total += 1
    assert 0.35 < full / total < 0.9
    assert 0.02 < colourless / total < 0.4
    assert 0.1 < nowhere / total < 0.6
