"""The batches of an epoch, made while earlier ones are trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bcls_core.training.batches import Batch, BatchSource, InputSource, Rows, StepInputs
from bcls_core.training.plan import BatchPlan
from bcls_core.training.prefetch import Prefetcher
from bcls_core.workers import Workers

StepRows = tuple[Rows, Rows]
"""Image rows and caption rows of a worker's part of a step."""

Prepare = Callable[[int, Iterator[StepRows]], Iterator[StepInputs]]
"""Given an epoch and the rows of some steps, the inputs of these steps, in order."""

MakePrepare = Callable[[InputSource], Prepare]
"""Says who reads, decodes and tokenises; called once on every worker."""


def prepare_here(source: InputSource) -> Prepare:
    """In this process, by the thread that makes batches ahead."""

    def prepare(epoch: int, steps: Iterator[StepRows]) -> Iterator[StepInputs]:
        return (source.step(epoch, *rows) for rows in steps)

    return prepare


def batches_of(
    source: BatchSource, prepare: Prepare, plan: BatchPlan, begin: int, workers: Workers, ahead: int
) -> Prefetcher[Batch]:
    """This worker's batches of an epoch from step `begin` on: rows of the plan, their inputs, their labels.

    Args:
        ahead: batches that a thread makes before they are asked for.
    """
    steps = range(begin, plan.steps)
    prepared = prepare(plan.epoch, (plan.slice(step, workers.rank, workers.size) for step in steps))
    return Prefetcher(partial(_batch, source, plan, begin, workers, prepared), len(steps), ahead)


def _batch(
    source: BatchSource, plan: BatchPlan, begin: int, workers: Workers, prepared: Iterator[StepInputs], index: int
) -> Batch:
    return source.batch(plan, begin + index, workers.rank, workers.size, next(prepared))
