from __future__ import annotations

from bcls_core.data.rejects import Reason, Reject, printable, rejects_table
from bcls_core.data.schema import REJECTS


def test_the_table_has_the_schema_with_and_without_rows() -> None:
    some = rejects_table([Reject("images", "a.jpg", Reason.MISSING), Reject("captions", "7", Reason.EMPTY_CAPTION)])

    assert some.schema == REJECTS
    assert some.to_pylist() == [
        {"source": "images", "key": "a.jpg", "reason": "missing"},
        {"source": "captions", "key": "7", "reason": "empty caption"},
    ]
    assert rejects_table([]).schema == REJECTS
    assert rejects_table([]).num_rows == 0


def test_keys_that_utf8_cannot_hold_are_escaped() -> None:
    assert printable("a\ud800b é") == "a\\ud800b é"
    assert rejects_table([Reject("images", "\ud800", Reason.MISSING)])["key"].to_pylist() == ["\\ud800"]
