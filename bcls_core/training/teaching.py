"""What training reads of teachers in a label set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bcls_core.data.rows import CorpusRows
from bcls_core.similarity import ImageSimilarity, LabelSetRelevance
from bcls_core.similarity.corpus_soft_labels import corpus_soft_labels_of_captions, corpus_soft_labels_of_images
from bcls_core.store import Artifact
from bcls_core.training.batches import Says, Teaching


def of_images(labels: Artifact, asked: Iterable[Teaching], rows: CorpusRows) -> dict[Teaching, Says]:
    """What image teachers say of image rows.

    Raises:
        StoreError: the label set lacks something, or it is of other images, or damaged.
    """
    return {
        one: (
            ImageSimilarity(labels, one.teacher, rows)
            if one.labels == "batch"
            else corpus_soft_labels_of_images(labels, one.teacher, rows)
        ).matrix
        for one in sorted(asked)
    }


def of_captions(
    labels: Artifact, asked: Iterable[Teaching], rows: CorpusRows, opened: Mapping[str, LabelSetRelevance]
) -> dict[Teaching, Says]:
    """What measures say of caption rows.

    Args:
        opened: by measure, so that what is open is not opened twice; all that are asked for their similarities.
    Raises:
        StoreError: as `of_images`.
    """
    return {
        one: (
            _by_row(opened[one.teacher], rows)
            if one.labels == "batch"
            else corpus_soft_labels_of_captions(labels, one.teacher, rows).matrix
        )
        for one in sorted(asked)
    }


def _by_row(relevance: LabelSetRelevance, rows: CorpusRows) -> Says:
    ids = rows.caption_ids
    return lambda own, every: relevance.matrix(ids[own], ids[every])
