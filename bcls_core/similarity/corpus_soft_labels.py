"""Corpus-wide soft labels as targets of a batch: how a teacher's belief in a whole split falls upon a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bcls_core.data.rows import CorpusRows
from bcls_core.errors import StoreError
from bcls_core.similarity.image_labels import IMAGE_SOFT_LABELS
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.row_book import MappedColumns
from bcls_core.similarity.soft_labels import SOFT_LABELS
from bcls_core.store import Artifact

_LEAST = 1e-30  # a probability, so that its logarithm is a number


class CorpusSoftLabels:
    """Logarithms of the probabilities that a teacher gives the rows of a split, for each of them.

    A row's list has what it holds most probable; what is not in it shares the mass that is left over evenly. A softmax
    over some columns makes of the logarithms the teacher's distribution, given that it is one of these.
    Lists are mapped from disk: memory holds what a batch touches.
    """

    def __init__(self, lists: Iterable[tuple[IntArray, IntArray, FloatArray, FloatArray]], others: IntArray) -> None:
        """
        Args:
            lists: of parts of the split in row order: length of each list, and of all of them rows and probabilities,
                the row itself included; mass that is left over for each list.
            others: (rows,) how many rows of the split a row could hold probable, beside itself.
        """
        lengths, masses = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        with MappedColumns("rows", "logs") as columns:
            for length, rows, probs, mass in lists:
                columns.append("rows", rows.astype(np.int32))
                columns.append("logs", np.log(np.maximum(probs, _LEAST)).astype(np.float32))
                lengths.append(length)
                masses.append(mass)
            self._rows, self._logs = columns.mapped("rows", np.int32), columns.mapped("logs", np.float32)
        counts = np.concatenate(lengths)
        self._starts: IntArray = np.concatenate([[0], np.cumsum(counts)])
        left = np.maximum(others - (counts - 1), 1)
        self._rest: FloatArray = np.log(np.maximum(np.concatenate(masses) / left, _LEAST)).astype(np.float32)

    def matrix(self, rows: IntArray, others: IntArray) -> FloatArray:
        """(rows, others) logarithms of probabilities, up to a number for each row.

        Args:
            rows, others: of the split; no row is twice among the others.
        """
        lengths = self._starts[rows + 1] - self._starts[rows]
        ends = np.cumsum(lengths)
        cells = np.repeat(self._starts[rows] - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
        order = np.argsort(others, kind="stable")
        listed = self._rows[cells]
        places = np.minimum(np.searchsorted(others, listed, sorter=order), len(others) - 1)
        columns = order[places]
        there = others[columns] == listed
        logs = np.repeat(self._rest[rows][:, None], len(others), axis=1)
        logs[np.repeat(np.arange(len(rows)), lengths)[there], columns[there]] = self._logs[cells[there]]
        return logs


def corpus_soft_labels_of_captions(labels: Artifact, measure: str, rows: CorpusRows) -> CorpusSoftLabels:
    """Soft labels of a split's captions, by caption row.

    Raises:
        StoreError: the label set has none by that measure, is of other captions, or a file is missing or damaged.
    """
    ids = pa.array(rows.caption_ids)
    of_image = np.bincount(rows.caption_image)
    parts = _parts(labels, f"{SOFT_LABELS}/{measure}", rows, "id", lambda shard: rows.rows_of_shard(shard)[1], ids)
    return CorpusSoftLabels(parts, len(ids) - of_image[rows.caption_image])


def corpus_soft_labels_of_images(labels: Artifact, teacher: str, rows: CorpusRows) -> CorpusSoftLabels:
    """Soft labels of a split's images, by image row. Raises StoreError as for captions."""
    ids = pa.array(rows.image_ids, pa.string())
    table = f"{IMAGE_SOFT_LABELS}/{teacher}"
    parts = _parts(labels, table, rows, "image_id", lambda shard: rows.rows_of_shard(shard)[0], ids)
    return CorpusSoftLabels(parts, np.full(len(ids), len(ids) - 1))


def _parts(
    labels: Artifact, table: str, rows: CorpusRows, key: str, own: Callable[[int], IntArray], ids: pa.Array
) -> Iterator[tuple[IntArray, IntArray, FloatArray, FloatArray]]:
    if table not in labels.tables:
        raise StoreError(
            f"label set {labels.version} has no {table}. Set label.soft_labels and label again, or train with "
            "labels: batch."
        )
    for shard in rows.shards:
        part = labels.read(table, shard, checked=True).combine_chunks()
        if not part[key].combine_chunks().equals(ids.take(pa.array(own(shard)))):
            raise StoreError(
                f"label set {labels.version}: {table} is of other rows than {rows.split}. Label this corpus."
            )
        found, probs = (part[name].combine_chunks() for name in ("ids", "probs"))
        listed = pc.index_in(found.flatten(), value_set=ids)
        if listed.null_count:
            raise StoreError(f"label set {labels.version}: {table} names what is not in {rows.split}. Label it again.")
        lengths = found.value_lengths().to_numpy().astype(np.int64)
        yield lengths, listed.to_numpy(), probs.flatten().to_numpy(), part["tail_mass"].to_numpy()
