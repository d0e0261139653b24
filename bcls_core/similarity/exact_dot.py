"""Float64 dot products of stored rows, for compiled code. Importing this module loads the compiler."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bcls_core.compiled import intrinsic

_I64, _DOUBLE = ir.IntType(64), ir.DoubleType()
_LANES = 16
_LINE = 64  # bytes
_FUSED = ("contract",)  # products and sums are exact, so are both in one


@intrinsic
def exact_dot(_: Any, row: Any, matrix: Any, place: Any) -> Any:
    """Dot product of a (dimension,) float64 row and `matrix[place]`: fp16 as uint16 bits, or float64.

    Summed in the order that registers like best: for what is stored, float64 is exact in any (`cosine.py`).
    """
    halves = matrix.dtype == types.uint16

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        left, right = (context.make_array(signature.args[n])(context, builder, values[n]) for n in (0, 1))
        (size,) = cgutils.unpack_tuple(builder, left.shape)
        stored = ir.HalfType() if halves else _DOUBLE
        pointer = builder.bitcast(right.data, ir.PointerType(stored))
        pointer = builder.gep(pointer, [builder.mul(values[2], size)], source_etype=stored)
        whole = builder.and_(size, ir.Constant(_I64, -_LANES))
        wide = _sum(builder, left.data, pointer, stored, ir.Constant(_I64, 0), whole, _LANES)
        rest = _sum(builder, left.data, pointer, stored, whole, size, 1)
        return builder.fadd(wide, rest)

    return types.float64(row, matrix, types.intp), emit


@intrinsic
def fetch(_: Any, matrix: Any, place: Any) -> Any:
    """Asks memory for `matrix[place]`, which is read soon."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        size = builder.mul(cgutils.unpack_tuple(builder, array.shape)[1], array.itemsize)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        start = builder.bitcast(array.data, cgutils.voidptr_t)
        start = builder.gep(start, [builder.mul(values[1], size)], source_etype=ir.IntType(8))
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), size, ir.Constant(_I64, _LINE), _I64) as (at, _):
            line = builder.gep(start, [at], source_etype=ir.IntType(8))
            builder.call(function, [line, ir.Constant(number, 0), ir.Constant(number, 3), ir.Constant(number, 1)])
        return context.get_dummy_value()

    return types.none(matrix, types.intp), emit


@intrinsic
def widen(_: Any, value: Any) -> Any:
    """A stored value as float64: the fp16 number behind 16 bits, or what is float64 already."""

    def extend(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), _DOUBLE)

    def keep(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return values[0]

    return types.float64(value), extend if value == types.uint16 else keep


def _sum(builder: Any, left: Any, right: Any, stored: Any, first: Any, last: Any, lanes: int) -> Any:
    """Sum of the products at the places `first` to `last`, `lanes` of them side by side."""
    doubles, narrow = (ir.VectorType(_DOUBLE, lanes), ir.VectorType(stored, lanes)) if lanes > 1 else (_DOUBLE, stored)
    zero = ir.Constant(doubles, [0.0] * lanes) if lanes > 1 else ir.Constant(_DOUBLE, 0.0)
    before = builder.block
    test, body, after = (builder.append_basic_block(name) for name in ("more", "products", "summed"))
    builder.branch(test)
    builder.position_at_end(test)
    place, total = builder.phi(_I64), builder.phi(doubles)
    place.add_incoming(first, before)
    total.add_incoming(zero, before)
    builder.cbranch(builder.icmp_signed("<", place, last), body, after)
    builder.position_at_end(body)
    a = _load(builder, left, place, _DOUBLE, doubles, 8)
    b = _load(builder, right, place, stored, narrow, 2 if stored != _DOUBLE else 8)
    b = b if stored == _DOUBLE else builder.fpext(b, doubles)
    sums = builder.fadd(builder.fmul(a, b, flags=_FUSED), total, flags=_FUSED)
    following = builder.add(place, ir.Constant(_I64, lanes))
    place.add_incoming(following, body)
    total.add_incoming(sums, body)
    builder.branch(test)
    builder.position_at_end(after)
    while lanes > 1:
        lanes //= 2
        halves = [
            builder.shuffle_vector(
                total, total, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(start, start + lanes)))
            )
            for start in (0, lanes)
        ]
        total = builder.fadd(*halves)
        if lanes == 1:
            total = builder.extract_element(total, ir.Constant(ir.IntType(32), 0))
    return total


def _load(builder: Any, pointer: Any, place: Any, element: Any, kind: Any, align: int) -> Any:
    at = builder.gep(pointer, [place], source_etype=element)
    return builder.load(builder.bitcast(at, ir.PointerType(kind)), align=align, typ=kind)
