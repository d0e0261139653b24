"""Dot products of 16-bit integers, a block of rows against a panel of columns, compared while they are in registers.

A block of products is never written anywhere unless one of them reaches the floor of its row or its column. Integer
products are exact, take half the time of fp32 ones on registers of any width, and need no second pass over memory to
find the few that matter. Nor is a block always finished: at each stop, what is left of a dot product is at most the
product of the norms of what is left of the two rows (Cauchy and Schwarz), and a block that cannot reach any floor with
that much more ends there. The block is written as vectors for the processor at hand: LLVM's generic operations, and the
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

MOST_NORM = 32_760
"""Of a row of 16-bit integers: its products and the distance of those from a floor fit into 32 bits."""

LEAST_FLOOR, MOST_FLOOR = -(2**30), 2**30
"""What every product reaches, and what none does."""

STEP = 2
"""Pairs that are multiplied between two tests whether it is enough: numbers of pairs are multiples of it."""

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
    """An intrinsic for compiled functions: `block(rows, place, row_tails, row_floors, packed, panel, column_tails,
    column, column_floors, floor, stops, sums, hits) -> int32`.

    It computes the products of the rows of `rows[place]` with the columns of `packed[panel]`. If none reaches the floor
    of its row or the floor of its column, it returns 0 and writes nothing; else it writes the products to `sums` and,
    for each row, the bits of the columns that do to `hits`.

    Args of the intrinsic:
        rows: (blocks, pairs, shape.rows) int32, each two int16 values; norms of rows at most `MOST_NORM`.
        row_tails: (stops, rows) int32 below 2^15, at least the norm of what a row has behind a stop; the last are 0.
        row_floors: (rows,) int32, between `LEAST_FLOOR` and `MOST_FLOOR`.
        packed: (panels, pairs, shape.columns) int32, pairs of each column.
        column_tails: as `row_tails`; those of the panel begin at `column`.
        column_floors: as `row_floors`; those of the panel begin at `floor`.
        stops: int64 numbers of pairs, ascending; the last is all of them.
        sums: (shape.rows * shape.columns,) int32.
        hits: (shape.rows,) uint32.
    """

    @intrinsic
    def block(
        _: Any, rows: Any, place: Any, row_tails: Any, row_floors: Any, packed: Any, panel: Any, column_tails: Any,
        column: Any, column_floors: Any, floor: Any, stops: Any, sums: Any, hits: Any,
    ) -> Any:  # fmt: skip
        at = types.intp
        signature = types.int32(
            rows, at, row_tails, row_floors, packed, at, column_tails, at, column_floors, at, stops, sums, hits
        )
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
        self._rows, self._place, self._row_tails, self._row_floors, self._packed, self._panel = arrays[:6]
        self._column_tails, self._column, self._column_floors, self._floor = arrays[6:10]
        self._stops, self._sums, self._hits = arrays[10:]
        self._pairs = self._size(self._rows, 1)
        self._row = builder.mul(self._place, _constant(shape.rows))

    def emit(self) -> Any:
        """From stop to stop while some product may still reach a floor, and what is left then.

        Sums begin below zero by as much as the lower floor of row and column: then a sign says what is reached.
        """
        build = self._builder
        floors = self._floors()
        before, stage = build.block, build.append_basic_block("stage")
        onward, write, done = (build.append_basic_block(name) for name in ("onward", "write", "done"))
        build.branch(stage)
        build.position_at_end(stage)
        number, first = build.phi(_I64), build.phi(_I64)
        sums = [[build.phi(self._sums_type) for _ in range(self._shape.vectors)] for _ in range(self._shape.rows)]
        stop = build.load(build.gep(self._stops.data, [number], source_etype=_I64), typ=_I64)
        totals = self._products(first, stop, sums)
        build.cbranch(self._may_reach(totals, number), onward, done)
        stopped = build.block
        build.position_at_end(onward)
        following = build.add(number, _constant(1))
        build.cbranch(build.icmp_unsigned("<", following, self._size(self._stops, 0)), stage, write)
        for value, start, later in [(number, _constant(0), following), (first, _constant(0), stop)]:
            value.add_incoming(start, before)
            value.add_incoming(later, onward)
        for r, v in self._all():
            sums[r][v].add_incoming(floors[r][v], before)
            sums[r][v].add_incoming(totals[r][v], onward)
        build.position_at_end(write)
        self._write(totals, floors)
        build.branch(done)
        build.position_at_end(done)
        result = build.phi(_I32)
        result.add_incoming(ir.Constant(_I32, 0), stopped)
        result.add_incoming(ir.Constant(_I32, 1), write)
        return result

    def _floors(self) -> list[list[Any]]:
        """[row][vector] negative of the lower floor of row and column."""
        build = self._builder
        columns = [build.neg(floors) for floors in self._vectors(self._at(self._column_floors.data, self._floor))]
        below = []
        for row in range(self._shape.rows):
            place = self._at(self._row_floors.data, build.add(self._row, _constant(row)))
            of_row = self._spread(build.neg(build.load(place, align=4, typ=_I32)))
            below.append([build.select(build.icmp_signed(">", of_row, column), of_row, column) for column in columns])
        return below

    def _products(self, first: Any, stop: Any, before: list[list[Any]]) -> list[list[Any]]:
        """[row][vector] sums, with those of the pairs from `first` to `stop` added."""
        build, shape = self._builder, self._shape
        size = build.mul(self._pairs, _constant(shape.rows))
        block = self._at(self._rows.data, build.mul(self._place, size))
        size = build.mul(self._pairs, _constant(shape.columns))
        panel = self._at(self._packed.data, build.mul(self._panel, size))
        entry, loop, after = build.block, build.append_basic_block("pairs"), build.append_basic_block("sums")
        build.branch(loop)
        build.position_at_end(loop)
        pair = build.phi(_I64)
        sums = [[build.phi(self._sums_type) for _ in range(shape.vectors)] for _ in range(shape.rows)]
        totals = sums
        for step in range(STEP):
            at = build.add(pair, _constant(step))
            values = self._at(block, build.mul(at, _constant(shape.rows)))
            columns = self._vectors(self._at(panel, build.mul(at, _constant(shape.columns))))
            spread = [
                self._spread(build.load(self._at(values, _constant(row)), align=4, typ=_I32))
                for row in range(shape.rows)
            ]
            totals = [
                [build.add(totals[row][v], self._pairwise(spread[row], columns[v])) for v in range(shape.vectors)]
                for row in range(shape.rows)
            ]
        following = build.add(pair, _constant(STEP))
        pair.add_incoming(first, entry)
        pair.add_incoming(following, loop)
        for row, v in self._all():
            sums[row][v].add_incoming(before[row][v], entry)
            sums[row][v].add_incoming(totals[row][v], loop)
        build.cbranch(build.icmp_unsigned("<", following, stop), loop, after)
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

    def _may_reach(self, sums: list[list[Any]], stop: Any) -> Any:
        """Whether any sum may still reach zero with what is left behind a stop."""
        build, shape = self._builder, self._shape
        columns = build.add(build.mul(stop, self._size(self._column_tails, 1)), self._column)
        rows = build.add(build.mul(stop, self._size(self._row_tails, 1)), self._row)
        column_tails = self._vectors(self._at(self._column_tails.data, columns))
        signs = ir.Constant(self._sums_type, [-1] * shape.lanes)
        for row in range(shape.rows):
            place = self._at(self._row_tails.data, build.add(rows, _constant(row)))
            tail = self._spread(build.load(place, align=4, typ=_I32))
            for v in range(shape.vectors):
                signs = build.and_(signs, build.add(sums[row][v], self._pairwise(tail, column_tails[v])))
        return build.icmp_unsigned("!=", self._bits(self._reached(signs)), ir.Constant(ir.IntType(shape.lanes), 0))

    def _reached(self, sums: Any) -> Any:
        return self._builder.icmp_signed(">=", sums, ir.Constant(self._sums_type, [0] * self._shape.lanes))

    def _bits(self, flags: Any) -> Any:
        return self._builder.bitcast(flags, ir.IntType(self._shape.lanes))

    def _write(self, sums: list[list[Any]], floors: list[list[Any]]) -> None:
        build, shape = self._builder, self._shape
        for row in range(shape.rows):
            hits = ir.Constant(_I32, 0)
            for v in range(shape.vectors):
                place = self._at(self._sums.data, _constant(row * shape.columns + v * shape.lanes))
                product = build.sub(sums[row][v], floors[row][v])
                build.store(product, build.bitcast(place, ir.PointerType(self._sums_type)), align=4)
                bits = build.zext(self._bits(self._reached(sums[row][v])), _I32)
                hits = build.or_(hits, build.shl(bits, ir.Constant(_I32, v * shape.lanes)))
            place = self._at(self._hits.data, _constant(row))
            build.store(hits, build.bitcast(place, ir.PointerType(_I32)), align=4)

    def _all(self) -> list[tuple[int, int]]:
        return [(row, vector) for row in range(self._shape.rows) for vector in range(self._shape.vectors)]

    def _size(self, array: Any, axis: int) -> Any:
        return cgutils.unpack_tuple(self._builder, array.shape)[axis]

    def _vectors(self, pointer: Any) -> list[Any]:
        return [self._vector(pointer, _constant(v * self._shape.lanes)) for v in range(self._shape.vectors)]

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
