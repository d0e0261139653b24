from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.similarity import tokens
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


@given(st.lists(st.text(alphabet="aBΣ́'n.t -_5:\u2019\x1c\xa0&", max_size=12), max_size=5))
def test_tokens_of_a_caption_are_those_of_the_whole_pattern(captions: list[str]) -> None:
    """Cutting at blanks first, and remembering what was cut, changes nothing."""
    for caption in captions:
        text = unicodedata.normalize("NFC", caption).translate(tokens._QUOTES).lower()
        assert tokenize(caption) == [token for token in tokens._TOKEN.findall(text) if token not in tokens._DROPPED]


def slow_ngrams(caption: str) -> list[str]:
    words = tokenize(caption)
    return [" ".join(words[start : start + n]) for n in range(1, 5) for start in range(len(words) - n + 1)]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "dog"]), max_size=7).map(" ".join), max_size=6))
def test_ngrams_of_one_to_four_words_keep_repeats_and_order(captions: list[str]) -> None:
    found = ngrams(captions)
    expected = [(row, ngram) for row, caption in enumerate(captions) for ngram in slow_ngrams(caption)]
    pairs = zip(found.captions.tolist(), found.numbers.tolist(), strict=True)
    assert [(row, found.names[number]) for row, number in pairs] == expected
    assert len(set(found.names)) == len(found.names) == len({ngram for _, ngram in expected})
    assert found.orders.tolist() == [order_of(name) for name in found.names]
    assert found.lengths.tolist() == [len(tokenize(caption)) for caption in captions]


def test_order_of_an_ngram() -> None:
    assert [order_of(ngram) for ngram in ("", "a", "a b", "a b c d")] == [0, 1, 2, 4]
