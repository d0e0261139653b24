from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.similarity.tokens import ngrams, order_of, tokenize


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man in a RED t-shirt.", "a man in a red t-shirt"),
        ("Two dogs, one cat; no birds!", "two dogs one cat no birds"),
        ("the man's dog doesn't run", "the man 's dog does n't run"),
        ("the man\u2019s \u201cbig\u201d dog", "the man 's big dog"),
        ("don't can't I'm they're", "do n't ca n't i 'm they 're"),
        ("at 10:30 with 1,000 people and 3.5 cakes", "at 10:30 with 1,000 people and 3.5 cakes"),
        ("a (very) small cafe\u0301 - or bar -- here...", "a very small caf\u00e9 or bar here"),
        ("Tom & Jerry for $5", "tom & jerry for $ 5"),
        ("the u.s. flag", "the u.s. flag"),
        ("dogs' bowls 'quoted'", "dogs bowls quoted"),
        ("  \n ", ""),
        ("?!.,", ""),
    ],
)
def test_captions_are_cut_into_words(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()


@given(st.text(max_size=60))
def test_any_text_gives_words_without_blanks(text: str) -> None:
    words = tokenize(text)
    assert all(word and not any(character.isspace() for character in word) for word in words)
    assert tokenize(" ".join(words)) == tokenize(" ".join(tokenize(" ".join(words))))


def test_ngrams_of_one_to_four_words_keep_repeats() -> None:
    found = ngrams(["a", "b", "a", "b", "c"])
    assert found[:5] == ["a", "b", "a", "b", "c"]
    assert found[5:9] == ["a b", "b a", "a b", "b c"]
    assert found[9:12] == ["a b a", "b a b", "a b c"]
    assert found[12:] == ["a b a b", "b a b c"]
    assert ngrams([]) == []
    assert [order_of(ngram) for ngram in ("", "a", "a b", "a b c d")] == [0, 1, 2, 4]
