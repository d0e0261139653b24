"""`MEASURE=SIMILARITY` options."""

from __future__ import annotations

import pytest

from bcls_core.errors import ConfigError
from flows.options import by_measure


def test_measures_get_their_numbers() -> None:
    assert by_measure("--near", ["a=0.5", "b=-1"]) == {"a": 0.5, "b": -1.0}
    assert by_measure("--near", []) == {}


@pytest.mark.parametrize("value", ["0.9", "a=", "=0.9", "a=nan", "a=1.1", "a=x", "a=-2", ""])
def test_what_is_no_such_option_is_named(value: str) -> None:
    with pytest.raises(ConfigError, match="expected MEASURE=SIMILARITY") as caught:
        by_measure("--near", [value])
    assert str(caught.value).startswith(f"--near {value}:")


def test_a_measure_is_named_once() -> None:
    with pytest.raises(ConfigError, match="a is named twice"):
        by_measure("--near", ["a=0.5", "a=0.6"])
