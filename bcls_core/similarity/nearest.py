"""The best k rows of each query by integer proposals and exact scores, on all threads.

Unit rows, as 16-bit integers, have products whose distance from the cosine has a proven bound; whatever the bound
allows among the best k is scored exactly (`cosine.py`). Hence the result does not depend on blocks, on the order in
which tasks end, on the processor or on the number of threads.

With `q = S u + e`, where `u` is a unit row along any orthonormal axes, `S` the scale and `e` what rounding took (its
norm is measured, not estimated), Cauchy and Schwarz give `|q_a q_b - S^2 cos| <= S (|e_a| + |e_b|) + |e_a| |e_b|`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch

from bcls_core.compiled import side_by_side
from bcls_core.similarity import neighbour_kernels as kernels
from bcls_core.similarity import row_kernels
from bcls_core.similarity.int16_blocks import LEAST_FLOOR, MOST_FLOOR
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.parallel import over_parts
from bcls_core.similarity.prepared_rows import PreparedRows, aligned, chunk_of

_ROWS_OF_TASK = 240  # multiple of every shape's rows; with a panel they stay in the second cache
_CACHE = 192 * 1024  # bytes of a task's rows
_MOST_ROWS = 16_000  # that a sweep takes before floors of columns rise
_COLUMN_TASKS = 8  # each goes through all hits
_ROOM = 4096  # hits of a task until they are taken
_LEAST_ROOM = 64  # candidates of a query between two selections
_ROUNDING = 2.0**-23  # of a published score, and of everything in float64


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
        self._width = chunk_of(len(rows))
        self._packed = np.empty((self._width // row_kernels.COLUMNS, pairs, row_kernels.COLUMNS), dtype=np.int32)
        self._never = np.full(self._width, MOST_FLOOR, dtype=np.int32)

    def run(self, *, symmetric: bool = False) -> IntArray:
        """Fills in the results.

        Args:
            symmetric: queries and rows are the same.
        Returns:
            Rows of the queries whose guessed floors were too high, ascending; their results are not to be used.
        """
        for column in range(0, len(self._rows), self._width):
            packed = self._pack(column)
            last = min(column + self._width, len(self._rows))
            if symmetric:
                self._block(column, last, packed)
            else:
                self._sweep(0, len(self._queries), packed, column, met=last)
        return self._finish()

    def _block(self, column: int, last: int, packed: Any) -> None:
        """The rows of a chunk with each other, then with all rows before them, which meet them too."""
        self._sweep(column, last, packed, column, met=last - column)
        first, chunks = 0, 1
        while first < column:
            end = min(first + chunks * self._width, column)
            self._sweep(first, end, packed, column, met=last, met_by_columns=last - column + end)
            first, chunks = end, min(2 * chunks, max(1, _MOST_ROWS // self._width))

    def _sweep(
        self, first: int, last: int, packed: Any, column: int, *, met: int, met_by_columns: int | None = None
    ) -> None:
        """Queries at `first` to `last` with the columns from `column` on.

        In rounds: a task whose hits have filled their room goes on once everybody's hits are taken.

        Args:
            met: how many rows the queries will have met.
            met_by_columns: the columns are queries as well, and this is how many rows they will have met.
        """
        floors = self._never if met_by_columns is None else self._best.floors[column:]
        waiting = [(begin, end, 0) for begin, end in self._tasks(first, last)]
        while len(self._rooms) < len(waiting):
            self._rooms.append(np.empty((_ROOM + self._task_rows * row_kernels.COLUMNS, 3), dtype=np.int32))
        arguments = self._queries.kernel, self._best, self._rows.kernel, packed, floors, column, met
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
        rows = self._rows
        packed = self._packed[: min(self._width, aligned(len(rows)) - column) // row_kernels.COLUMNS]

        def pack(part: slice) -> None:
            row_kernels.pack(rows.kernel.pairs, packed[part], column + part.start * row_kernels.COLUMNS)

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
    floors = np.full(aligned(len(asked)), MOST_FLOOR, dtype=np.int32)
    floors[: len(asked)] = LEAST_FLOOR
    guesses = np.full(count, LEAST_FLOOR, dtype=np.int32)
    scale = float(row_kernels.SCALE)
    error = scale * (asked.error + rows.error) + asked.error * rows.error
    error += scale * scale * (rows.basis.error + _ROUNDING)
    slack = 2 * (math.ceil(error) + 1)
    counts = np.zeros(count, dtype=np.int32)
    return kernels.Candidates(places, products, counts, guesses, floors, k, slack, len(rows) if guess else 0)
