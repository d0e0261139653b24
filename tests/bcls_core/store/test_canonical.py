from __future__ import annotations

import enum
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import StoreError
from bcls_core.store import fingerprint
from bcls_core.store.canonical import as_json, canonical_json

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


class Colour(enum.StrEnum):
    RED = "red"


def test_the_fingerprint_is_the_sha256_of_sorted_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5,null],"b":{"x":"\\u00e9","y":true}}').hexdigest()
    assert fingerprint({"b": {"y": True, "x": "é"}, "a": (1, 2.5, None)}) == expected


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), values))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert fingerprint(dict(reversed(value.items()))) == fingerprint(value)


@settings(max_examples=60, deadline=None)
@given(values, values)
def test_equal_spelling_means_equal_values(a: Any, b: Any) -> None:
    assert (canonical_json(a) == canonical_json(b)) == _same(as_json(a), as_json(b))


def _same(a: Any, b: Any) -> bool:
    """Equal with types, and dictionaries in any order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return repr(a) == repr(b)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": {"b": [1, float("nan")]}}, r"value\.a\.b\[1\] is nan"),
        ({"a": float("inf")}, r"value\.a is inf"),
        ({"a": {1: 2}}, r"value\.a has the key 1 of type int"),
        ({"a": Path("x")}, r"value\.a is a PosixPath"),
        ({"a": np.float64(1.5)}, r"value\.a is a float64"),
        ({"a": np.int64(1)}, r"value\.a is a int64"),
        ({"a": Colour.RED}, r"value\.a is a Colour"),
        ({"a": {1, 2}}, r"value\.a is a set"),
    ],
)
def test_what_json_does_not_have_is_named(value: Any, where: str) -> None:
    with pytest.raises(StoreError, match=where):
        fingerprint(value)
