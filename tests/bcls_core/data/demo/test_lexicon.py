from __future__ import annotations

from itertools import chain

from bcls_core.data.demo import lexicon
from bcls_core.data.demo.vocabulary import CATEGORIES, COLOURS, GROUPS, LEVELS, RIDERS, SIZES


def test_no_phrase_says_two_things() -> None:
    tables = (
        {kind: list(chain.from_iterable(nouns)) for kind, nouns in lexicon.NOUNS.items()},
        {kind: list(chain.from_iterable(nouns)) for kind, nouns in lexicon.GROUP_NOUNS.items()},
        lexicon.COLOUR_WORDS,
        lexicon.SIZE_WORDS,
        lexicon.SETTINGS,
        lexicon.SCENERY,
        lexicon.COLUMN_WORDS,
        {"air": lexicon.AIR_WORDS},
        lexicon.NUMBER_WORDS,
    )
    meanings: dict[str, set[str]] = {}
    for number, table in enumerate(tables):
        for meaning, phrases in table.items():
            for phrase in phrases:
                meanings.setdefault(phrase, set()).add(f"{number}:{meaning}")
    assert {phrase: said for phrase, said in meanings.items() if len(said) > 1} == {}


def test_everything_that_can_be_drawn_can_be_told() -> None:
    assert set(lexicon.NOUNS) == set(CATEGORIES)
    assert set(lexicon.COLOUR_WORDS) == set(COLOURS)
    assert set(lexicon.SIZE_WORDS) == set(SIZES)
    assert set(lexicon.GROUP_NOUNS) == set(GROUPS)
    for category in CATEGORIES:
        if "ground" in LEVELS[category] or category in RIDERS:
            assert lexicon.STANDING[category]
        if "air" in LEVELS[category]:
            assert lexicon.AIRBORNE[category]


def test_most_facts_can_be_said_in_several_ways() -> None:
    assert sum(len(nouns) > 1 for nouns in lexicon.NOUNS.values()) >= 10
    assert sum(len(words) > 1 for words in lexicon.COLOUR_WORDS.values()) >= 8
    assert all(len(words) > 1 for words in (*lexicon.SETTINGS.values(), *lexicon.SCENERY.values()))
    assert all(len(words) > 1 for words in (*lexicon.FORWARD.values(), *lexicon.BACKWARD.values()))
