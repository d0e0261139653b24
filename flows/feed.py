"""Decoding, varying and tokenising in processes of their own, on Ray, beside each training worker."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bcls_core.training.batches import InputSource, Rows, StepInputs
from bcls_core.training.feed import StepRows
from flows.backend import own_error

Arrays = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]

_READY = 2  # steps that wait to be trained on, beside those that the processes are at
_RESTARTS = 3
_MOST_BESIDE_GPU = 8
_NICE = 5  # who trains goes first where processors are few


class PrepareOnRay:
    """Inputs of steps from `count` processes, in turns; they end with this one.

    They run on the worker's node, so that inputs cross through shared memory, and take no resources: those are part of
    the worker's own. A process that dies is replaced, and makes again what it owed.
    """

    def __init__(self, source: InputSource, count: int) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        maker = ray.remote(_Maker).options(
            num_cpus=0, scheduling_strategy=here, max_restarts=_RESTARTS, max_task_retries=_RESTARTS
        )
        self._packed = ray.put(source)  # kept: a process that takes another's place needs it again
        self._makers = [maker.remote(self._packed) for _ in range(count)]

    def processes(self) -> list[int]:
        """Their ids."""
        import ray

        found: list[int] = ray.get([maker.process.remote() for maker in self._makers])
        return found

    def __call__(self, epoch: int, steps: Iterator[StepRows]) -> Iterator[StepInputs]:
        under_way: deque[Any] = deque()
        makers = cycle(self._makers)
        for rows in steps:
            under_way.append(next(makers).step.remote(epoch, *rows))
            if len(under_way) >= _READY + len(self._makers):
                yield _arrived(under_way.popleft())
        while under_way:
            yield _arrived(under_way.popleft())


class _Maker:
    """An actor that makes inputs, with one thread."""

    def __init__(self, source: InputSource) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.nice(_NICE)
        torch.set_num_threads(1)
        self._source = source

    def process(self) -> int:
        return os.getpid()

    def step(self, epoch: int, image_rows: Rows, caption_rows: Rows) -> Arrays:
        images, captions = self._source.step(epoch, image_rows, caption_rows)
        # As arrays, which Ray hands over without copying.
        return _arrays(images), _arrays(captions)


def _arrays(inputs: dict[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def _arrived(reference: Any) -> StepInputs:
    import ray

    try:
        images, captions = ray.get(reference)
    except Exception as error:
        if (own := own_error(error)) is not None:
            raise own from error
        raise
    return _tensors(images), _tensors(captions)


def _tensors(arrays: dict[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    # Copies: the arrays are in memory that nobody may write, and it is free again sooner.
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def data_workers(asked: int | None, device: str, nodes: Iterable[Mapping[str, float]]) -> int:
    """How many processes a training worker has: as many as asked for, or what suits its device.

    On CPUs, which training keeps busy anyway, none; beside a GPU its share of a node's processors, but for one of the
    training's own and one of the node that stays free, and at most eight.

    Args:
        nodes: resources of the cluster's nodes.
    """
    if asked is not None:
        return asked
    if device != "cuda":
        return 0
    shares = (int((node.get("CPU", 0) - 1) // node["GPU"]) for node in nodes if node.get("GPU"))
    return max(0, min(_MOST_BESIDE_GPU, min(shares, default=0) - 1))
