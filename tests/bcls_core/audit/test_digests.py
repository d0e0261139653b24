"""First equal rows against a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.audit.digests import as_digests, digest, first_equal

things = st.lists(st.sampled_from([b"", b"a", b"b", b"c", b"\x00", b"a\x00"]), max_size=12)


@given(things, things)
def test_first_equal_is_the_first_equal(queries: list[bytes], rows: list[bytes]) -> None:
    found = first_equal(as_digests(map(digest, queries)), as_digests(map(digest, rows)))
    assert found.tolist() == [rows.index(thing) if thing in rows else -1 for thing in queries]


def test_half_of_a_digest_is_not_enough() -> None:
    rows = np.array([[1, 2], [1, 3], [2, 2]], dtype=np.uint64)
    queries = np.array([[1, 3], [2, 3], [2, 2], [3, 2]], dtype=np.uint64)
    assert first_equal(queries, rows).tolist() == [1, -1, 2, -1]
