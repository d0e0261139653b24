"""What two captions that differ in writing alone have in common."""

from __future__ import annotations

import unicodedata

_APOSTROPHES = "'’‘ʼ`´"


class _Folding(dict[int, str]):
    """Character -> what stands for it; filled as characters are met."""

    def __missing__(self, point: int) -> str:
        character = chr(point)
        category = unicodedata.category(character)
        folded = " " if category[0] in "PZC" else character
        if character in _APOSTROPHES or category == "Cf":  # "dont", and marks that only say how to draw
            folded = ""
        self[point] = folded
        return folded


_FOLDING = _Folding()


def normal_form(caption: str) -> str:
    """The caption without case, punctuation, extra spaces and compatibility forms; accents and symbols stay.

    A caption of nothing but punctuation is its own normal form.
    """
    folded = unicodedata.normalize("NFKC", caption).casefold().translate(_FOLDING)
    return " ".join(folded.split()) or " ".join(caption.split())
