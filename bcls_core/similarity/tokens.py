"""Words and n-grams of a caption, cut as the caption-evaluation literature does (Penn-Treebank style)."""

from __future__ import annotations

import re
import unicodedata

LONGEST_NGRAM = 4

_QUOTES = str.maketrans({"‘": "'", "’": "'", "‛": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
_TOKEN = re.compile(
    r"""
      (?:[^\W\d_]\.){2,}             # u.s.
    | \d+(?:[.,:/]\d+)+              # 1,000  3.5  10:30  1/2
    | [^\W_]+?(?=n't\b)              # do|n't
    | n't\b
    | '(?:s|m|d|re|ll|ve)\b          # man|'s
    | [^\W_]+(?:[-_][^\W_]+)*        # man  t-shirt
    | [^\w\s]                        # whatever else stands alone
    """,
    re.VERBOSE,
)
_DROPPED = frozenset(".,:;!?'`\"-()[]{}…_")


def tokenize(caption: str) -> list[str]:
    """Lower-cased words of `caption`.

    Follows the treatment of the reference CIDEr implementation: Penn-Treebank tokens, lower-cased, without punctuation
    marks, quotes and brackets. Contractions are split (`man's` -> `man 's`, `don't` -> `do n't`); hyphenated words,
    numbers with separators and dotted abbreviations stay whole; symbols such as & and $ are words. Unlike that
    implementation it keeps no list of abbreviations (`mr.` -> `mr`) and does not split `cannot` or `gonna`.
    """
    text = unicodedata.normalize("NFC", caption).translate(_QUOTES).lower()
    return [token for token in _TOKEN.findall(text) if token not in _DROPPED]


def ngrams(tokens: list[str]) -> list[str]:
    """All n-grams of 1 to `LONGEST_NGRAM` tokens, repeats included, each joined by single spaces."""
    return [
        " ".join(tokens[start : start + n]) for n in range(1, LONGEST_NGRAM + 1) for start in range(len(tokens) - n + 1)
    ]


def order_of(ngram: str) -> int:
    """n of an n-gram; 0 for the empty one."""
    return ngram.count(" ") + 1 if ngram else 0
