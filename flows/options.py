"""Options whose values are more than one word."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bcls_core.errors import ConfigError


def by_measure(option: str, values: Sequence[str]) -> dict[str, float]:
    """`MEASURE=SIMILARITY` options as a dictionary.

    Raises:
        ConfigError: one is not of that form, or its measure is named twice.
    """
    found: dict[str, float] = {}
    for value in values:
        measure, _, text = value.partition("=")
        try:
            similarity = float(text)
        except ValueError:
            similarity = math.nan
        if not measure or not -1 <= similarity <= 1:
            raise ConfigError(
                f"{option} {value}: expected MEASURE=SIMILARITY, a number from -1 to 1, as in minilm=0.9."
            )
        if measure in found:
            raise ConfigError(f"{option}: measure {measure} is named twice. Name it once.")
        found[measure] = similarity
    return found
