"""The best k rows of each query by integer proposals and exact scores, on all threads.

Unit rows, as 16-bit integers, have products whose distance from the cosine has a proven bound; whatever the bound
allows among the best k is scored exactly (`cosine.py`). Hence the result does not depend on blocks, on the order in
which tasks end, on the processor or on the number of threads.

With `q = S u + e`, where `u` is a unit row, `S` the scale and `e` what rounding took (its norm is measured, not
estimated), Cauchy and Schwarz give `|q_a q_b - S^2 cos| <= S (|e_a| + |e_b|) + |e_a| |e_b|`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from bcls_core.compiled import side_by_side
from bcls_core.similarity import neighbour_kernels as kernels
from bcls_core.similarity import row_kernels
from bcls_core.similarity.cosine import PLAIN_NORM, ExactRows, StoredRows
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.parallel import over_parts, read_only

_ALIGNED = 96  # a multiple of every shape's rows and columns
_FEWEST_COLUMNS, _MOST_COLUMNS = 5 * _ALIGNED, 42 * _ALIGNED  # packed into panels together
_BLOCKS = 20  # of columns at least, where there are rows for so many: products of a block with itself are made twice
_ROWS_OF_TASK = 240  # multiple of every shape's rows; with a panel they stay in the second cache
_CACHE = 192 * 1024  # bytes of a task's rows
_MOST_ROWS = 16_000  # that a sweep takes before floors of columns rise
_COLUMN_TASKS = 8  # each goes through all hits
_ROOM = 32_768  # hits of a task until they are taken
_LEAST_ROOM = 64  # candidates of a query between two selections
_ROUNDING = 2.0**-23  # of a published score, and of everything in float64
_SEED = 20221019


@dataclass(frozen=True, eq=False)
class PreparedRows:
    """Rows in the form that the kernels read: made once, searched often.

    Memory: a 16-bit integer for each value, beside the rows themselves.

    Attributes:
        error: the largest norm of what rounding to integers took from a row, in units of the integers.
    """

    kernel: Any
    error: float

    def __len__(self) -> int:
        return len(self.kernel.order)

    @classmethod
    def of(cls, rows: StoredRows, groups: IntArray | None = None, *, which: IntArray | None = None) -> PreparedRows:
        """
        Args:
            rows: (rows, dimension) as `stored_rows` gives them.
            groups: (rows,) numbers; rows of equal groups do not find each other.
            which: rows that take part, all if None.
        """
        taken = np.arange(len(rows)) if which is None else which
        order = _shuffled(taken).astype(np.int32)
        dimension = rows.shape[1]
        pairs = np.zeros((_aligned(len(order)), -(-dimension // 2)), dtype=np.int32)
        norms, errors = np.empty(len(rows)), np.empty(len(order))
        bits = read_only(np.ascontiguousarray(rows).view(np.uint16))

        def quantise(part: slice) -> None:
            values = np.zeros(2 * pairs.shape[1], dtype=np.int16)
            row_kernels.quantise(bits, order[part], norms, pairs[part], errors[part], values)

        over_parts(len(order), quantise)
        exact, low = bits, np.empty((0, 0))
        parts = ExactRows.of(rows) if (norms[order] > PLAIN_NORM).any() else None
        if parts is not None and parts.low is not None:
            exact, low, norms = read_only(parts.high), parts.low, parts.norms
            values = np.zeros(2 * pairs.shape[1], dtype=np.int16)
            row_kernels.quantise_long(exact, low, order, norms, pairs, errors, values)
        numbers = np.empty(0, dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)[order]
        return cls(kernels.Rows(pairs, numbers, order, exact, read_only(low), norms), float(errors.max(initial=0.0)))

    def part(self, rows: IntArray) -> PreparedRows:
        """Some of the rows, in the same numbering."""
        kernel = self.kernel
        places = np.flatnonzero(np.isin(kernel.order, rows))
        pairs = np.zeros((_aligned(len(places)), kernel.pairs.shape[1]), dtype=np.int32)
        pairs[: len(places)] = kernel.pairs[places]
        groups = kernel.groups[places] if len(kernel.groups) else kernel.groups
        return PreparedRows(kernel._replace(pairs=pairs, groups=groups, order=kernel.order[places]), self.error)


def find(scores: FloatArray, ids: IntArray, rows: PreparedRows, queries: PreparedRows | None = None) -> None:
    """Writes the best k rows of each query, or of each row if `queries` is None, where the query's row is.

    A row is met unless it is of the query's group; without groups a row finds itself.

    Args:
        scores: (rows of the queries, k) float32, written: descending, equal ones by ascending row; -inf where fewer
            were found.
        ids: (rows of the queries, k) int64, written: rows, -1 where fewer were found.
    """
    asked = rows if queries is None else queries
    failed = _Search(asked, rows, scores, ids).run(symmetric=queries is None)
    if len(failed):
        _Search(asked.part(failed), rows, scores, ids, guess=False).run()


class _Search:
    """All products of queries and rows, panel by panel, and the candidates they leave where results will be."""

    def __init__(
        self, queries: PreparedRows, rows: PreparedRows, scores: FloatArray, ids: IntArray, *, guess: bool = True
    ) -> None:
        """
        Args:
            guess: whether to expect of the rows met, in random order, their share of the best: it spares most of the
                work of keeping candidates.
        """
        self._queries, self._rows = queries, rows
        self._scores, self._ids = scores, ids
        self._best = _candidates(queries, rows, scores, ids, guess=guess)
        pairs, step = rows.kernel.pairs.shape[1], row_kernels.ROWS
        self._task_rows = max(step, min(_ROWS_OF_TASK, _CACHE // (4 * pairs) // step * step))
        self._rooms: list[Any] = []
        width = len(rows) // _BLOCKS // _ALIGNED * _ALIGNED
        self._width = min(max(_FEWEST_COLUMNS, min(_MOST_COLUMNS, width)), len(rows.kernel.pairs))
        self._packed = np.empty((self._width // row_kernels.COLUMNS, pairs, row_kernels.COLUMNS), dtype=np.int32)
        self._never = np.full(self._width, kernels.NEVER, dtype=np.int32)

    def run(self, *, symmetric: bool = False) -> IntArray:
        """Fills in the results.

        Args:
            symmetric: queries and rows are the same.
        Returns:
            Rows of the queries whose guessed floors were too high, ascending; their results are not to be used.
        """
        for column in range(0, len(self._rows), self._width):
            packed = self._pack(column)
            if symmetric:
                self._block(column, packed)
            else:
                self._sweep(0, len(self._queries), packed, column)
        return self._finish()

    def _block(self, column: int, packed: Any) -> None:
        """The rows of a block of columns with each other, then with all rows before them, which meet them too."""
        last = min(column + self._width, len(self._rows))
        self._sweep(column, last, packed, column)
        first, size = 0, self._width
        while first < column:
            end = min(first + size, column)
            self._sweep(first, end, packed, column, met_by_columns=last - column + end)
            first, size = end, min(2 * size, _MOST_ROWS // row_kernels.ROWS * row_kernels.ROWS)

    def _sweep(self, first: int, last: int, packed: Any, column: int, met_by_columns: int | None = None) -> None:
        """Queries at `first` to `last` with the columns from `column` on.

        In rounds: a task whose hits have filled their room goes on once everybody's hits are taken.

        Args:
            met_by_columns: the columns are queries as well, and this is how many rows they will have met.
        """
        floors = self._never if met_by_columns is None else self._best.floors[column:]
        waiting = [(begin, end, 0) for begin, end in self._tasks(first, last)]
        while len(self._rooms) < len(waiting):
            self._rooms.append(np.empty((_ROOM + self._task_rows * row_kernels.COLUMNS, 3), dtype=np.int32))
        arguments = self._queries.kernel, self._best, self._rows.kernel, packed, floors, column
        while waiting:
            tasks = [
                partial(kernels.sweep, *arguments, *task, room)
                for task, room in zip(waiting, self._rooms, strict=False)
            ]
            done = side_by_side(tasks)
            if met_by_columns is not None:
                self._take_columns([count for _, count in done], column, met_by_columns)
            progress = zip(waiting, done, strict=True)
            waiting = [(begin, end, panel) for (begin, end, _), (panel, _) in progress if panel < len(packed)]

    def _take_columns(self, counts: list[int], column: int, met: int) -> None:
        rows, best = self._rows.kernel, self._best

        def take(begin: int, end: int) -> None:
            for room, count in zip(self._rooms, counts, strict=False):
                kernels.take_columns(rows, best, room, count, begin, end, met)
            kernels.raise_floors(rows, rows, best, begin, end, met)

        last = min(column + self._width, len(self._rows))
        step = -(-(last - column) // min(torch.get_num_threads(), _COLUMN_TASKS))
        side_by_side([partial(take, begin, min(begin + step, last)) for begin in range(column, last, step)])

    def _tasks(self, first: int, last: int) -> list[tuple[int, int]]:
        """Where the queries of each task begin and end: whole blocks, but for the last."""
        step = row_kernels.ROWS
        fair = -(-(last - first) // (4 * torch.get_num_threads() * step)) * step
        length = max(step, min(self._task_rows, fair))
        return [(begin, min(begin + length, last)) for begin in range(first, last, length)]

    def _pack(self, column: int) -> Any:
        pairs = self._rows.kernel.pairs[column : column + self._width]
        packed = self._packed[: len(pairs) // row_kernels.COLUMNS]

        def pack(part: slice) -> None:
            row_kernels.pack(pairs[part.start * row_kernels.COLUMNS :], packed[part])

        over_parts(len(packed), pack)
        return packed

    def _finish(self) -> IntArray:
        failed = np.zeros(len(self._scores), dtype=np.bool_)
        askers = np.sort(self._queries.kernel.order)

        def finish(part: slice) -> None:
            kernels.finish(
                self._queries.kernel, self._rows.kernel, self._best, askers[part], self._scores, self._ids, failed
            )

        over_parts(len(askers), finish)
        return np.flatnonzero(failed)


def _candidates(asked: PreparedRows, rows: PreparedRows, scores: FloatArray, ids: IntArray, *, guess: bool) -> Any:
    count, k = scores.shape
    if 2 * k >= _LEAST_ROOM:
        places, products = ids.view(np.int32), scores.view(np.int16)
    else:
        places = np.empty((count, _LEAST_ROOM), dtype=np.int32)
        products = np.empty((count, _LEAST_ROOM), dtype=np.int16)
    floors = np.full(len(asked.kernel.pairs), kernels.NEVER, dtype=np.int32)
    floors[: len(asked)] = kernels.NO_FLOOR
    guesses = np.full(count, kernels.NO_FLOOR, dtype=np.int32)
    scale = float(row_kernels.SCALE)
    error = scale * (asked.error + rows.error) + asked.error * rows.error + scale * scale * _ROUNDING
    slack = 2 * (math.ceil(error) + 1)
    counts = np.zeros(count, dtype=np.int32)
    return kernels.Candidates(places, products, counts, guesses, floors, k, slack, len(rows) if guess else 0)


def _shuffled(rows: IntArray) -> IntArray:
    """In random order: what a query has met of its best rows tells then how many are still to come."""
    return np.random.default_rng(_SEED).permutation(rows)


def _aligned(count: int) -> int:
    return -(-max(count, 1) // _ALIGNED) * _ALIGNED
