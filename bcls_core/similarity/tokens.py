"""Words and n-grams of a caption, cut as the caption-evaluation literature does (Penn-Treebank style)."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np

from bcls_core.similarity.measure import IntArray

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
    return [token for chunk in text.split() for token in _tokens_of(chunk)]


@lru_cache(maxsize=1 << 16)
def _tokens_of(chunk: str) -> tuple[str, ...]:
    """Tokens of what stands between two spaces: no token reaches across one, and captions repeat their words."""
    return tuple(token for token in _TOKEN.findall(chunk) if token not in _DROPPED)


@dataclass(frozen=True)
class NgramOccurrences:
    """Every n-gram of some captions, repeats included: caption after caption, in each by n, then from left to right.

    Attributes:
        names: the distinct n-grams, each joined by single spaces.
        orders: (names,) their n.
        numbers: (occurrences,) which of the names.
        captions: (occurrences,) which caption.
        lengths: (captions,) tokens of each caption.
    """

    names: list[str]
    orders: IntArray
    numbers: IntArray
    captions: IntArray
    lengths: IntArray


def ngrams(captions: Sequence[str]) -> NgramOccurrences:
    """The n-grams of 1 to `LONGEST_NGRAM` tokens of each caption.

    Words become numbers once; a longer n-gram is then the pair (shorter n-gram, next word), and its text is joined once
    for all its occurrences.
    """
    word_number: defaultdict[str, int] = defaultdict(count().__next__)
    flat: list[int] = []
    lengths = np.zeros(len(captions), dtype=np.int64)
    for row, caption in enumerate(captions):
        tokens = tokenize(caption)
        lengths[row] = len(tokens)
        flat.extend(map(word_number.__getitem__, tokens))
    texts, words = list(word_number), np.array(flat, dtype=np.int64)
    row_of = np.repeat(np.arange(len(captions), dtype=np.int64), lengths)
    place_in_row = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found = np.stack([np.maximum(lengths - n, 0) for n in range(LONGEST_NGRAM)])  # n-grams of each n, of each caption
    first = (np.cumsum(found.sum(axis=0)) - found.sum(axis=0)) + np.cumsum(found, axis=0) - found
    numbers = np.empty(int(found.sum()), dtype=np.int64)
    owners = np.empty_like(numbers)
    names: list[str] = []
    orders: list[IntArray] = []
    starts, grams, shorter = np.arange(len(words)), words, texts
    for n in range(LONGEST_NGRAM):
        if n:
            kept = place_in_row[starts] + n < lengths[row_of[starts]]
            starts, grams = starts[kept], grams[kept]
            last = words[starts + n]
            _, example, grams_longer = np.unique(
                grams * max(len(texts), 1) + last, return_index=True, return_inverse=True
            )
            pairs = zip(grams[example].tolist(), last[example].tolist(), strict=True)
            shorter, grams = [f"{shorter[gram]} {texts[word]}" for gram, word in pairs], grams_longer
        places = first[n][row_of[starts]] + place_in_row[starts]
        numbers[places] = grams + len(names)
        owners[places] = row_of[starts]
        names.extend(shorter)
        orders.append(np.full(len(shorter), n + 1, dtype=np.int64))
    return NgramOccurrences(names, np.concatenate(orders), numbers, owners, lengths)


def order_of(ngram: str) -> int:
    """n of an n-gram; 0 for the empty one."""
    return ngram.count(" ") + 1 if ngram else 0
