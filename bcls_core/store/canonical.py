"""One spelling for one value: canonical JSON and the fingerprint made of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from bcls_core.errors import StoreError


def fingerprint(value: Mapping[str, Any]) -> str:
    """Name what determines a content: 64 hexadecimal digits, the sha256 of its canonical JSON.

    Two mappings have one fingerprint exactly when they hold equal JSON: the order of keys and the kind of sequence do
    not matter, every value does (1 and 1.0 differ). A version is `fingerprint(...)[:16]`.

    Raises:
        StoreError: a value is not JSON, or not a finite number.
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """ASCII JSON without white space, keys sorted, floats in their shortest exact form.

    Raises:
        StoreError: a value is not JSON (the message names where it is), or not a finite number.
    """
    check_json(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def as_json(value: Any) -> Any:
    """`value` as it comes back from JSON: a copy with lists for tuples and dicts for mappings.

    Raises:
        StoreError: a value is not JSON.
    """
    return json.loads(canonical_json(value))


def check_json(value: Any, where: str = "value") -> None:
    """Make sure `value` comes back from JSON as it went in (tuples as lists).

    Raises:
        StoreError: naming the first place that would not.
    """
    # Exact types: a numpy float is a float by inheritance, an enum a str, and neither would come back as what it was.
    if value is None or type(value) in (bool, int, str):
        return
    if type(value) is float:
        if not math.isfinite(value):
            raise StoreError(f"{where} is {value}, which JSON does not have; leave it out or use null.")
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            if type(key) is not str:
                raise StoreError(f"{where} has the key {key!r} of type {type(key).__name__}; JSON keys are strings.")
            check_json(item, f"{where}.{key}")
        return
    if isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            check_json(item, f"{where}[{position}]")
        return
    raise StoreError(
        f"{where} is a {type(value).__name__} ({value!r:.60}), which JSON does not have; "
        "convert it to a str, int, float, bool, list or dict."
    )
