"""Dot products of 16-bit integers, a block of rows against a panel of columns, compared while they are in registers.

A block of products is never written anywhere unless one of them reaches the floor of its row or its column. Integer
products are exact, take half the time of fp32 ones on registers of any width, and need no second pass over memory to
find the few that matter. The block is written as vectors for the processor at hand: LLVM's generic operations, and the
x86 instruction that multiplies and adds pairs where there is one.

Importing this module loads the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from bcls_core.compiled import intrinsic

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


@dataclass(frozen=True)
class Shape:
    """How a block lies in registers.

    Attributes:
        rows: of a block.
        vectors: of columns; a panel has `vectors * lanes` columns.
        lanes: 32-bit sums in a register.
        pairwise: name of the LLVM intrinsic that multiplies 16-bit numbers and adds pairs of products; None: generic.
    """

    rows: int
    vectors: int
    lanes: int
    pairwise: str | None

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def shape_of_host() -> Shape:
    """The widest shape whose sums fit into the registers of this processor."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512bw"):
        return Shape(rows=12, vectors=2, lanes=16, pairwise="llvm.x86.avx512.pmaddw.d.512")
    if features.get("avx2"):
        return Shape(rows=6, vectors=2, lanes=8, pairwise="llvm.x86.avx2.pmadd.wd")
    return Shape(rows=4, vectors=2, lanes=8, pairwise=None)


def block_of(shape: Shape) -> Any:
    """An intrinsic for compiled functions: `block(rows, row, packed, panel, row_floors, column_floors, column, sums,
    hits) -> int32`.

    It computes the products of `rows[row : row + shape.rows]` with the columns of `packed[panel]`. If none reaches the
    floor of its row or the floor of its column, it returns 0 and writes nothing; else it writes the products to `sums`
    and, for each row, the bits of the columns that do to `hits`.

    Args of the intrinsic:
        rows: (rows, pairs) int32, each two int16 values; sums of products must fit into 32 bits.
        packed: (panels, pairs, shape.columns) int32, pairs of each column.
        row_floors, column_floors: int32; the panel's begin at `column`.
        sums: (shape.rows * shape.columns,) int32.
        hits: (shape.rows,) uint32.
    """

    @intrinsic
    def block(
        _: Any, rows: Any, row: Any, packed: Any, panel: Any, row_floors: Any, column_floors: Any, column: Any,
        sums: Any, hits: Any,
    ) -> Any:  # fmt: skip
        at = types.intp
        signature = types.int32(rows, at, packed, at, row_floors, column_floors, at, sums, hits)
        return signature, lambda context, builder, sig, values: _Block(shape, context, builder, sig, values).emit()

    return block


class _Block:
    """Emits the code of one block; a Python loop here is code written out, not a loop at run time."""

    def __init__(self, shape: Shape, context: Any, builder: Any, signature: Any, values: Any) -> None:
        self._shape = shape
        self._builder = builder
        self._sums_type = ir.VectorType(_I32, shape.lanes)
        self._values_type = ir.VectorType(_I16, 2 * shape.lanes)
        arrays = [
            context.make_array(kind)(context, builder, value) if hasattr(kind, "ndim") else value
            for kind, value in zip(signature.args, values, strict=True)
        ]
        self._rows, self._row, self._packed, self._panel = arrays[:4]
        self._row_floors, self._column_floors, self._column, self._sums, self._hits = arrays[4:]
        self._pairs = cgutils.unpack_tuple(builder, self._rows.shape)[1]

    def emit(self) -> Any:
        sums = self._products()
        reached, anything = self._compared(sums)
        with self._builder.if_then(anything, likely=False):
            self._write(sums, reached)
        return self._builder.zext(anything, _I32)

    def _products(self) -> list[list[Any]]:
        """[row][vector] sums over all pairs."""
        build, shape = self._builder, self._shape
        start = build.mul(self._row, self._pairs)
        firsts = [
            self._at(self._rows.data, build.add(start, build.mul(_constant(row), self._pairs)))
            for row in range(shape.rows)
        ]
        size = build.mul(self._pairs, _constant(shape.columns))
        panel = self._at(self._packed.data, build.mul(self._panel, size))
        before, loop, after = build.block, build.append_basic_block("pairs"), build.append_basic_block("sums")
        build.branch(loop)
        build.position_at_end(loop)
        pair = build.phi(_I64)
        pair.add_incoming(_constant(0), before)
        sums = [[build.phi(self._sums_type) for _ in range(shape.vectors)] for _ in range(shape.rows)]
        offset = build.mul(pair, _constant(shape.columns))
        columns = [self._vector(panel, build.add(offset, _constant(v * shape.lanes))) for v in range(shape.vectors)]
        totals = []
        for row in range(shape.rows):
            value = self._spread(build.load(self._at(firsts[row], pair), align=4, typ=_I32))
            totals.append([build.add(sums[row][v], self._pairwise(value, columns[v])) for v in range(shape.vectors)])
        following = build.add(pair, _constant(1))
        pair.add_incoming(following, loop)
        for row in range(shape.rows):
            for v in range(shape.vectors):
                sums[row][v].add_incoming(ir.Constant(self._sums_type, [0] * shape.lanes), before)
                sums[row][v].add_incoming(totals[row][v], loop)
        build.cbranch(build.icmp_unsigned("<", following, self._pairs), loop, after)
        build.position_at_end(after)
        return totals

    def _pairwise(self, a: Any, b: Any) -> Any:
        """Lane by lane `a[2i] * b[2i] + a[2i + 1] * b[2i + 1]` of 16-bit halves."""
        build, shape = self._builder, self._shape
        a, b = build.bitcast(a, self._values_type), build.bitcast(b, self._values_type)
        if shape.pairwise is not None:
            module = build.module
            kind = ir.FunctionType(self._sums_type, [self._values_type, self._values_type])
            function = module.globals.get(shape.pairwise) or ir.Function(module, kind, shape.pairwise)
            return build.call(function, [a, b])
        products = []
        for parity in (0, 1):
            places = ir.Constant(self._sums_type, list(range(parity, 2 * shape.lanes, 2)))
            halves = [build.sext(build.shuffle_vector(x, x, places), self._sums_type) for x in (a, b)]
            products.append(build.mul(*halves))
        return build.add(*products)

    def _compared(self, sums: list[list[Any]]) -> tuple[list[list[Any]], Any]:
        """[row][vector] which sums reach a floor, and whether any does."""
        build, shape = self._builder, self._shape
        floors = self._at(self._column_floors.data, self._column)
        of_columns = [self._vector(floors, _constant(v * shape.lanes)) for v in range(shape.vectors)]
        reached, union = [], ir.Constant(self._sums_type, [0] * shape.lanes)
        for row in range(shape.rows):
            place = self._at(self._row_floors.data, build.add(self._row, _constant(row)))
            of_row = self._spread(build.load(place, align=4, typ=_I32))
            found = []
            for v in range(shape.vectors):
                floor = build.select(build.icmp_signed("<", of_row, of_columns[v]), of_row, of_columns[v])
                found.append(build.icmp_signed(">=", sums[row][v], floor))
                union = build.or_(union, build.sext(found[v], self._sums_type))
            reached.append(found)
        bits = ir.IntType(32 * shape.lanes)
        return reached, build.icmp_unsigned("!=", build.bitcast(union, bits), ir.Constant(bits, 0))

    def _write(self, sums: list[list[Any]], reached: list[list[Any]]) -> None:
        build, shape = self._builder, self._shape
        for row in range(shape.rows):
            hits = ir.Constant(_I32, 0)
            for v in range(shape.vectors):
                place = self._at(self._sums.data, _constant(row * shape.columns + v * shape.lanes))
                build.store(sums[row][v], build.bitcast(place, ir.PointerType(self._sums_type)), align=4)
                bits = build.zext(build.bitcast(reached[row][v], ir.IntType(shape.lanes)), _I32)
                hits = build.or_(hits, build.shl(bits, ir.Constant(_I32, v * shape.lanes)))
            place = self._at(self._hits.data, _constant(row))
            build.store(hits, build.bitcast(place, ir.PointerType(_I32)), align=4)

    def _at(self, pointer: Any, place: Any) -> Any:
        return self._builder.gep(pointer, [place], source_etype=_I32)

    def _vector(self, pointer: Any, place: Any) -> Any:
        at = self._builder.bitcast(self._at(pointer, place), ir.PointerType(self._sums_type))
        return self._builder.load(at, align=4, typ=self._sums_type)

    def _spread(self, value: Any) -> Any:
        undefined = ir.Constant(self._sums_type, ir.Undefined)
        first = self._builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        return self._builder.shuffle_vector(first, undefined, ir.Constant(self._sums_type, [0] * self._shape.lanes))


def _constant(value: int) -> Any:
    return ir.Constant(_I64, value)


@intrinsic
def lowest_bit(_: Any, bits: Any) -> Any:
    """Place of the lowest bit that is set, of a uint32 that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int32(types.uint32), emit
