from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.errors import StoreError
from bcls_core.store import FORMAT, NewerFormatError
from bcls_core.store.sealed import seal, unseal

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.dictionaries(st.text().filter(lambda key: key not in ("format", "checksum")), scalars)


@given(documents)
def test_a_document_comes_back(document: dict[str, Any]) -> None:
    assert unseal(seal(document), "here") == document


@given(documents, st.data())
def test_any_flipped_bit_is_found(document: dict[str, Any], data: st.DataObject) -> None:
    sealed = bytearray(seal(document))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StoreError):
        unseal(bytes(sealed), "here")


@given(documents, st.data())
def test_a_truncated_document_is_found(document: dict[str, Any], data: st.DataObject) -> None:
    sealed = seal(document)
    with pytest.raises(StoreError, match="here"):
        unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))], "here")


def test_a_newer_format_is_refused_with_both_numbers() -> None:
    newer = json.dumps({**json.loads(seal({"a": 1})), "format": FORMAT + 41, "colour": "new"}).encode()
    with pytest.raises(NewerFormatError, match=rf"here has format {FORMAT + 41}.* up to format {FORMAT}: upgrade bcls"):
        unseal(newer, "here")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"3", b"{}", b'{"format": "1"}', b'{"format": true}'])
def test_other_json_is_no_document(data: bytes) -> None:
    with pytest.raises(StoreError, match="here"):
        unseal(data, "here")
