"""The digest against an oracle that encodes one Python value at a time, and against every change of layout."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bcls_core.errors import StoreError
from bcls_core.store.digest import columns_of, content_digest, row_digests, table_digest
from bcls_core.store.tables import from_parquet, to_parquet

PINNED = "7316cedc6f361654cec4d4a7c40a79fb446927d3663cfbf3c2b3e39ba9869442"
PINNED_CONTENT = "3e31523008476ade378b3571139decccc839ce50fd832f096719296d6330ecdc"

INTEGERS = {"int8": "b", "uint8": "B", "int16": "h", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q"}
FLOATS = {"halffloat": "e", "float": "f", "double": "d"}
STRUCT = pa.struct([("kind", pa.string()), ("span", pa.list_(pa.int32()))])


def _integers(data_type: Any) -> st.SearchStrategy[int]:
    bits = data_type.bit_width
    signed = str(data_type).startswith("int")
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


def _values(data_type: Any) -> st.SearchStrategy[Any]:
    """Python values of an Arrow type, None among them wherever Parquet can hold it."""
    kinds = pa.types
    if kinds.is_integer(data_type):
        return st.none() | _integers(data_type)
    if kinds.is_floating(data_type):
        return st.none() | st.floats(width=data_type.bit_width)
    if kinds.is_boolean(data_type):
        return st.none() | st.booleans()
    if kinds.is_string(data_type):
        return st.none() | st.text(alphabet="ab\0é", max_size=4)
    if kinds.is_binary(data_type):
        return st.none() | st.binary(max_size=4)
    if kinds.is_fixed_size_list(data_type):
        return st.lists(_values(data_type.value_type), min_size=data_type.list_size, max_size=data_type.list_size)
    if kinds.is_list(data_type):
        return st.none() | st.lists(_values(data_type.value_type), max_size=3)
    fields = {field.name: _values(field.type) for field in data_type}
    return st.none() | st.fixed_dictionaries(fields)


SCALARS = [*map(pa.type_for_alias, [*INTEGERS, *FLOATS]), pa.bool_(), pa.string(), pa.binary()]
NESTED = [pa.list_(item) for item in SCALARS] + [
    pa.list_(pa.float16(), 3),
    pa.list_(pa.bool_(), 2),
    pa.list_(pa.string(), 2),
    pa.list_(pa.list_(pa.float32())),
    pa.list_(pa.list_(pa.float16(), 2)),
    STRUCT,
    pa.list_(STRUCT),
]
types = st.sampled_from(SCALARS + NESTED)


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """A table with unique ids and one to three columns of any type."""
    rows = draw(st.integers(0, 7))
    columns = {"id": pa.array(range(rows), pa.int64())}
    for name in draw(st.sampled_from([["a"], ["b", "a"], ["x y", "a", ""]])):
        data_type = draw(types)
        columns[name] = pa.array(draw(st.lists(_values(data_type), min_size=rows, max_size=rows)), data_type)
    return pa.table(columns)


def oracle(value: Any, data_type: Any) -> bytes:
    """The encoding of one value, written down from the module's description."""
    kinds, name = pa.types, str(data_type)
    if name in INTEGERS or name in FLOATS or kinds.is_boolean(data_type):
        code = "B" if kinds.is_boolean(data_type) else {**INTEGERS, **FLOATS}[name]
        if value is None:
            return bytes(1 + struct.calcsize(code))
        return b"\1" + struct.pack(f"<{code}", math.nan if value != value else value)
    if kinds.is_struct(data_type):
        fields = [oracle(None if value is None else value[field.name], field.type) for field in data_type]
        return (b"\0" if value is None else b"\1") + b"".join(fields)
    items = value.encode() if isinstance(value, str) else [] if value is None else value
    length = b"\0" * 9 if value is None else b"\1" + struct.pack("<q", len(items))
    if kinds.is_string(data_type) or kinds.is_binary(data_type):
        return length + bytes(items)
    item_type = data_type.value_type
    if str(item_type) not in INTEGERS and str(item_type) not in FLOATS and not kinds.is_boolean(item_type):
        return length + b"".join(oracle(item, item_type) for item in items)
    flags = b"\1" + bytes(item is not None for item in items) if None in items else b"\0"
    return length + flags + b"".join(oracle(item, item_type)[1:] for item in items)


def oracle_rows(table: Any) -> tuple[bytes, list[bytes]]:
    """The digest of the columns' names and types, and the sorted digests of the rows."""
    columns = columns_of(table.schema)
    spelled = json.dumps(columns, sort_keys=True, separators=(",", ":")).encode()
    salt = hashlib.blake2b(spelled, digest_size=16).digest()
    digests = []
    for row in table.to_pylist():
        data = b"".join(oracle(row[name], table.schema.field(name).type) for name in columns)
        digests.append(hashlib.blake2b(data, digest_size=16, salt=salt).digest())
    return salt, sorted(digests)


def digest(*parts: Any) -> str:
    return table_digest(columns_of(parts[0].schema), [row_digests(part) for part in parts])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables())
def test_digests_equal_the_oracle(table: Any) -> None:
    head, rows = oracle_rows(table)
    assert row_digests(table).tobytes() == b"".join(rows)
    assert digest(table) == hashlib.sha256(head + b"".join(rows)).hexdigest()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), st.data())
def test_no_layout_matters(table: Any, data: st.DataObject) -> None:
    expected, rows = digest(table), table.num_rows
    order = data.draw(st.permutations(range(rows)), label="order")
    shuffled = table.take(pa.array(order, pa.int64()))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3), label="cuts"))
    pieces = [shuffled.slice(start, stop - start) for start, stop in zip([0, *cuts], [*cuts, rows], strict=True)]
    names = data.draw(st.permutations(table.column_names), label="columns")
    assert digest(*pieces) == expected
    assert digest(pa.concat_tables(pieces).select(names)) == expected
    padded = pa.concat_tables([table, shuffled, table]).combine_chunks()
    assert digest(padded.slice(rows, rows)) == expected
    for flavour in ("dictionary", "large", "view"):
        assert digest(_other_types(table, flavour)) == expected
    stored = [from_parquet(pa.BufferReader(to_parquet(piece, "part", row_group_size=2)), "part") for piece in pieces]
    assert digest(*stored) == expected


def _other_types(table: Any, flavour: str) -> Any:
    """The same values in Arrow types that differ in layout only."""
    kinds, columns = pa.types, {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        array = column.combine_chunks()
        if flavour == "dictionary" and not kinds.is_nested(array.type) and not kinds.is_float16(array.type):
            array = array.dictionary_encode()
        elif flavour == "large" and kinds.is_string(array.type):
            array = array.cast(pa.large_string())
        elif flavour == "large" and kinds.is_binary(array.type):
            array = array.cast(pa.large_binary())
        elif flavour == "large" and kinds.is_list(array.type):
            array = array.cast(pa.large_list(array.type.value_type))
        elif flavour == "view" and kinds.is_string(array.type):
            array = array.cast(pa.string_view())
        elif flavour == "view" and kinds.is_binary(array.type):
            array = array.cast(pa.binary_view())
        columns[name] = array
    return pa.table(columns)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(types, st.data())
def test_any_changed_value_changes_the_digest(data_type: Any, data: st.DataObject) -> None:
    before, after = data.draw(_values(data_type), label="before"), data.draw(_values(data_type), label="after")
    assume(oracle(before, data_type) != oracle(after, data_type))
    other = data.draw(_values(data_type), label="another row")
    first, second = (pa.table({"id": [0, 1], "x": pa.array([other, value], data_type)}) for value in (before, after))
    assert digest(first) != digest(second)


@pytest.mark.parametrize(
    ("data_type", "before", "after"),
    [
        (pa.string(), "", None),
        (pa.binary(), b"", None),
        (pa.int32(), 0, None),
        (pa.bool_(), False, None),
        (pa.float64(), 0.0, -0.0),
        (pa.float64(), math.nan, None),
        (pa.list_(pa.int32()), [], None),
        (pa.list_(pa.int32()), [0], [None]),
        (pa.list_(pa.int32()), [1, 2], [2, 1]),
        (pa.list_(pa.string()), ["ab", "c"], ["a", "bc"]),
        (pa.list_(pa.string()), [""], [None]),
        (pa.list_(pa.list_(pa.int32())), [[1], []], [[], [1]]),
        (pa.list_(pa.float16(), 2), [1.0, 2.0], [2.0, 1.0]),
        (STRUCT, {"kind": None, "span": None}, None),
    ],
)
def test_values_that_are_easily_mixed_up_differ(data_type: Any, before: Any, after: Any) -> None:
    first, second = (pa.table({"id": [0], "x": pa.array([value], data_type)}) for value in (before, after))
    assert digest(first) != digest(second)


def test_names_and_types_are_part_of_every_row() -> None:
    table = pa.table({"id": [1], "x": pa.array([1], pa.int32()), "y": pa.array([1], pa.int32())})
    others = [
        table.rename_columns(["id", "y", "x"]),
        table.rename_columns(["id", "x", "z"]),
        table.set_column(1, "x", pa.array([1], pa.int64())),
        table.set_column(1, "x", pa.array([1], pa.uint32())),
        table.set_column(1, "x", pa.array([[1]], pa.list_(pa.int32()))),
        table.set_column(1, "x", pa.array([[1]], pa.list_(pa.int32(), 1))),
        table.drop_columns(["y"]),
        table.append_column("n", pa.nulls(1)),
    ]
    digests = [digest(other) for other in [table, *others]]
    assert digests[1] == digests[0]  # the same values in columns of another order
    assert len(set(digests[1:])) == len(others)


def test_a_value_cannot_move_to_the_neighbouring_column() -> None:
    digests = {digest(pa.table({"a": [a], "b": [b]})) for a, b in [("x", "yz"), ("xy", "z"), ("xyz", ""), ("", "xyz")]}
    assert len(digests) == 4


def test_an_empty_table_still_has_its_columns() -> None:
    empty = pa.table({"id": pa.array([], pa.int64())})
    assert digest(empty) == digest(empty, empty)
    assert digest(empty) != digest(pa.table({"id": pa.array([], pa.int32())}))


def test_every_nan_is_the_same() -> None:
    bits = np.array([0x7FC00000, 0xFFC00001, 0x7FC12345], np.uint32)
    tables = [pa.table({"id": [0], "x": pa.array([value], pa.float32())}) for value in bits.view(np.float32)]
    lists = [pa.table({"id": [0], "x": pa.array([[value]], pa.list_(pa.float32()))}) for value in bits.view(np.float32)]
    assert len({digest(table) for table in tables}) == 1
    assert len({digest(table) for table in lists}) == 1


def test_repeated_rows_count() -> None:
    assert digest(pa.table({"x": [1, 1]})) != digest(pa.table({"x": [1]}))


def test_more_rows_than_one_batch() -> None:
    table = pa.table({"id": np.arange(150_000), "name": [f"scene-{number}" for number in range(150_000)]})
    assert digest(table) == digest(table.slice(100_001), table.slice(0, 100_001))


def test_the_digest_is_pinned() -> None:
    """If this fails, digests of stored artefacts no longer verify: raise the store's format with the change."""
    table = pa.table(
        {
            "caption_id": pa.array([7, 8], pa.int64()),
            "caption": ["a red cube", None],
            "embedding": pa.array([[0.5, -1.0], [0.25, math.nan]], pa.list_(pa.float16(), 2)),
            "ngrams": pa.array([[3, 1], []], pa.list_(pa.int32())),
        }
    )
    assert digest(table) == PINNED
    assert content_digest("labels/1", {"k": 3}, {"t": PINNED}, {"f": "00"}) == PINNED_CONTENT


@pytest.mark.parametrize(
    "column", [pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), pa.array([{}], pa.struct([]))]
)
def test_types_without_canonical_bytes_are_refused(column: Any) -> None:
    with pytest.raises(StoreError, match="cast it"):
        row_digests(pa.table({"x": column}))


def test_a_table_needs_columns_with_different_names() -> None:
    with pytest.raises(StoreError, match="without columns"):
        row_digests(pa.table({}))
    with pytest.raises(StoreError, match="'x' occurs twice"):
        row_digests(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]))
