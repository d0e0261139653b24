"""How well a student retrieves and orders one split."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bcls_core.metrics import rank_correlation, retrieval, retrieval_from_encodings
from bcls_core.students import Student
from bcls_core.training.batches import BatchSource, Inputs, InputSource, Rows
from bcls_core.workers import Workers

_BATCH = 128
_CORRELATION_IMAGES = 1000


def validate(student: Student, source: BatchSource, workers: Workers, device: torch.device) -> dict[str, float]:
    """`retrieval_and_agreement` of a split; every worker returns the same numbers."""
    images, captions = encode_split(student, source.inputs, workers, device)
    return retrieval_and_agreement(student, images, captions, source)


@torch.no_grad()
def encode_split(
    student: Student, source: InputSource, workers: Workers, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Encodings (images, dim) and (captions, dim) of a split, in row order, in evaluation mode.

    Batches are cut by row number and dealt to the workers, then gathered: all workers hold all encodings.
    """
    was_training = student.training
    student.eval()
    images = _encode(student.encode_images, source.images, source.rows.image_count, workers, device)
    captions = _encode(student.encode_captions, source.captions, source.rows.caption_count, workers, device)
    student.train(was_training)
    return images, captions


@torch.no_grad()
def retrieval_and_agreement(
    student: Student, images: Tensor, captions: Tensor, source: BatchSource
) -> dict[str, float]:
    """Retrieval metrics, and rank correlation of the scores with each measure's labels.

    Correlations are over the split's first 1,000 images and their captions. For a student whose score is the product of
    its encodings no (images, captions) matrix of the whole split is made.

    Args:
        images, captions: encodings of the split that `source` reads, in row order.
    Returns:
        `i2t/r1`, …, `rsum`, and per measure `label/MEASURE/i2t/kendall`, …; what is undefined is left out.
    """
    rows = source.rows
    if type(student).score is Student.score:
        metrics = dict(retrieval_from_encodings(images.float().cpu(), captions.float().cpu(), rows.caption_image))
    else:
        metrics = dict(retrieval(student.score(images, captions).float().cpu(), rows.caption_image))
    some_images = np.arange(min(_CORRELATION_IMAGES, rows.image_count))
    some_captions = np.flatnonzero(rows.caption_image < len(some_images))
    scores = student.score(images[: len(some_images)], captions[some_captions]).float().cpu()
    for measure, labels in source.relevance(some_images, some_captions).items():
        correlation = rank_correlation(scores, labels)
        metrics |= {f"label/{measure}/{name}": value for name, value in correlation.items()}
    return defined(metrics)


def defined(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics without those that the split does not define (NaN): a correlation with constant labels, say."""
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def _encode(
    encode: Callable[[Inputs], Tensor],
    inputs: Callable[[Rows], Inputs],
    count: int,
    workers: Workers,
    device: torch.device,
) -> Tensor:
    batches = np.array_split(np.arange(count), max(1, -(-count // _BATCH)))
    dealt = np.array_split(np.arange(len(batches)), workers.size)
    most = max(len(share) for share in dealt)

    def encoded(rows: Rows) -> Tensor:
        return encode({name: tensor.to(device) for name, tensor in inputs(rows).items()})

    mine = [encoded(batches[index]) for index in dealt[workers.rank]]
    # All workers encode equally often, for sharded towers are put together by all; a row too many is left out again.
    mine += [encoded(batches[0][:1])[:0] for _ in range(most - len(mine))]
    return workers.gather(torch.cat(mine), [sum(len(batches[index]) for index in share) for share in dealt])
