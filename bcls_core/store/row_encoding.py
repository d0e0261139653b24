"""Bytes of a value that are the same however Arrow happens to hold it.

Every element becomes one self-delimiting byte string that depends on nothing but its own value and type: not on the
chunks, slices, offsets or dictionaries around it. All steps work on whole columns.

- null: one 0 byte (fixed-width values keep their width, filled with 0); present: one 1 byte, then the value
- numbers, booleans, dates, times: their little-endian bytes; every NaN is the same NaN
- strings and bytes: length (8 bytes), content
- lists: length (8 bytes), then the elements; for fixed-width elements their null flags only if one of the list is null
- structs: the fields in order
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bcls_core.errors import StoreError

Bytes = NDArray[np.uint8]
_NOTHING = pa.scalar(b"", pa.large_binary())


def type_name(data_type: Any) -> str:
    """The name of an Arrow type, the same for types that differ in layout only (`large_string`, dictionaries).

    Raises:
        StoreError: values of this type have no canonical bytes here.
    """
    kinds = pa.types
    if kinds.is_dictionary(data_type):
        return type_name(data_type.value_type)
    if _is_string(data_type):
        return "string"
    if _is_binary(data_type):
        return "binary"
    if _is_list(data_type):
        return f"list<{type_name(data_type.value_type)}>"
    if kinds.is_fixed_size_list(data_type):
        return f"list<{type_name(data_type.value_type)}>[{data_type.list_size}]"
    if kinds.is_struct(data_type) and data_type.num_fields:
        return "struct<" + ", ".join(f"{json.dumps(f.name)}: {type_name(f.type)}" for f in data_type) + ">"
    if kinds.is_null(data_type) or kinds.is_boolean(data_type) or _is_fixed_width(data_type):
        return str(data_type)
    raise StoreError(f"a column of type {data_type} cannot be stored; cast it to numbers, strings, lists or structs.")


def encode(array: Any) -> Any:
    """A large_binary array with one self-delimiting encoding per element of `array`, without nulls.

    Raises:
        StoreError: the type has no canonical bytes here.
    """
    kinds, data_type = pa.types, array.type
    if len(array) == 0:
        return pa.array([], pa.large_binary())
    if kinds.is_dictionary(data_type):
        return encode(array.dictionary_decode())
    if kinds.is_null(data_type):
        return _rows(np.zeros((len(array), 1), np.uint8))
    if _is_string(data_type) or _is_binary(data_type):
        values = array if kinds.is_large_binary(data_type) else array.cast(pa.large_binary())
        return join([_header(array, pc.binary_length(values)), values.fill_null(b"")])
    if _is_list(data_type) or kinds.is_fixed_size_list(data_type):
        return _encode_lists(array)
    if kinds.is_struct(data_type) and data_type.num_fields:
        return join([_rows(_present(array)[:, None]), *map(encode, array.flatten())])
    if kinds.is_boolean(data_type) or _is_fixed_width(data_type):
        return _rows(np.hstack([_present(array)[:, None], _fixed_width_values(array)]))
    raise StoreError(
        f"a value of type {data_type} has no canonical bytes; cast it to numbers, strings, lists or structs."
    )


def join(columns: list[Any]) -> Any:
    """Concatenate large_binary arrays of one length, element by element."""
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, _NOTHING)


def bytes_and_offsets(encoded: Any) -> tuple[Bytes, NDArray[np.int64]]:
    """The bytes of a large_binary array, and the n + 1 places where its elements begin and end."""
    _, offset_buffer, data_buffer = encoded.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[encoded.offset : encoded.offset + len(encoded) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return data, offsets


def _encode_lists(array: Any) -> Any:
    lengths = pc.list_value_length(array)
    elements = array.flatten()  # those of null lists are left out
    if pa.types.is_dictionary(elements.type):
        elements = elements.dictionary_decode()
    ends = np.concatenate([[0], np.cumsum(_integers(lengths))])
    if not (pa.types.is_boolean(elements.type) or _is_fixed_width(elements.type)):
        data, offsets = (
            bytes_and_offsets(encode(elements)) if len(elements) else (np.zeros(0, np.uint8), np.zeros(1, int))
        )
        return join([_header(array, lengths), _slices(data, offsets[ends])])
    values = _fixed_width_values(elements)
    columns = [_header(array, lengths), *_element_flags(elements, ends), _slices(values, ends * values.shape[1])]
    return join(columns)


def _element_flags(elements: Any, ends: NDArray[Any]) -> list[Any]:
    """One byte per list: does it hold nulls; and, if it does, one byte per element: is it present."""
    rows = len(ends) - 1
    if elements.null_count == 0:
        return [_rows(np.zeros((rows, 1), np.uint8))]
    present = _present(elements)
    nulls_before = np.concatenate([[0], np.cumsum(1 - present.astype(np.int64))])
    holds_nulls = np.diff(nulls_before[ends]) > 0
    kept = present[np.repeat(holds_nulls, np.diff(ends))]
    kept_ends = np.concatenate([[0], np.cumsum(np.where(holds_nulls, np.diff(ends), 0))])
    return [_rows(holds_nulls[:, None].astype(np.uint8)), _slices(kept, kept_ends)]


def _fixed_width_values(array: Any) -> Bytes:
    """(elements, width) bytes of the values, 0 where null."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    width = array.type.bit_width // 8
    if len(array) == 0:
        return np.zeros((0, width), np.uint8)
    start = array.offset * width
    values = np.frombuffer(array.buffers()[1], np.uint8)[start : start + len(array) * width].reshape(-1, width)
    if pa.types.is_floating(array.type):
        floats = values.view(f"<f{width}")
        nan = np.isnan(floats)
        if nan.any():
            values = np.where(nan, floats.dtype.type(np.nan), floats).view(np.uint8)
    if array.null_count:
        values = np.where(_present(array)[:, None].astype(bool), values, np.uint8(0))
    return values


def _header(array: Any, lengths: Any) -> Any:
    """One byte, present or not, and eight of length (0 where null) per element."""
    header = np.empty((len(array), 9), np.uint8)
    header[:, 0] = _present(array)
    header[:, 1:] = _integers(lengths).view(np.uint8).reshape(-1, 8)
    return _rows(header)


def _present(array: Any) -> Bytes:
    if array.null_count == 0 and not pa.types.is_null(array.type):
        return np.ones(len(array), np.uint8)
    present: Bytes = pc.is_valid(array).to_numpy(zero_copy_only=False).astype(np.uint8)
    return present


def _integers(lengths: Any) -> NDArray[np.int64]:
    values: NDArray[np.int64] = np.ascontiguousarray(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False), "<i8")
    return values


def _rows(block: Bytes) -> Any:
    """(rows, width) bytes as a large_binary array."""
    rows, width = block.shape
    return _slices(block, np.arange(rows + 1, dtype=np.int64) * width)


def _slices(data: Bytes, ends: NDArray[Any]) -> Any:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(ends, np.int64)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.large_binary(), len(ends) - 1, buffers)


def _is_string(data_type: Any) -> bool:
    kinds = pa.types
    return any((kinds.is_string(data_type), kinds.is_large_string(data_type), kinds.is_string_view(data_type)))


def _is_binary(data_type: Any) -> bool:
    kinds = pa.types
    return any((kinds.is_binary(data_type), kinds.is_large_binary(data_type), kinds.is_binary_view(data_type)))


def _is_list(data_type: Any) -> bool:
    return any((pa.types.is_list(data_type), pa.types.is_large_list(data_type)))


def _is_fixed_width(data_type: Any) -> bool:
    kinds = pa.types
    tests = (kinds.is_integer, kinds.is_floating, kinds.is_temporal, kinds.is_decimal, kinds.is_fixed_size_binary)
    return any(test(data_type) for test in tests)
