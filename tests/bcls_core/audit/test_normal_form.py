"""What the normal form forgets, and what it must keep."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.audit.normal_form import normal_form


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("A dog runs.", "a dog,  runs"),
        ("A dog\u00a0runs\n", "a dog runs"),
        ("it's a t-shirt", "ITS A T SHIRT!"),
        ("the man’s hat", "the man's hat"),
        ("ﬁve dogs", "five dogs"),
        ("STRASSE", "straße"),
        ("cafe\u0301", "café"),
        ("a\u200bdog", "adog"),
    ],
)
def test_writing_does_not_matter(a: str, b: str) -> None:
    assert normal_form(a) == normal_form(b)


@pytest.mark.parametrize(
    ("a", "b"), [("cafe", "café"), ("10 $", "10 €"), ("कि", "की"), ("two dogs", "twodogs"), ("?", "!"), ("a 1", "a 2")]
)
def test_words_and_symbols_do(a: str, b: str) -> None:
    assert normal_form(a) != normal_form(b)


@given(st.text())
def test_it_holds_letters_and_single_spaces_or_the_caption(caption: str) -> None:
    found = normal_form(caption)
    assert found == " ".join(found.split())
    kept = [character for character in found if unicodedata.category(character)[0] in "PZ" and character != " "]
    assert not kept or found == " ".join(caption.split())
