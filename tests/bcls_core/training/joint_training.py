"""Trainings by several processes over gloo, and what each of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from bcls_core.errors import StoppedError
from bcls_core.training import encoder
from bcls_core.training.loop import Trainer, TrainingJob
from bcls_core.training.sharding import gathered, local
from bcls_core.workers import Workers


@dataclass
class Seen:
    """By one worker.

    Attributes:
        epochs: metrics of each.
        steps: its share of the loss in each step it took; the shares of all workers add up to the loss.
        parameters: of its student, whole.
        own_parameters, own_moments: numbers that it keeps of them, and of their gradients' means in the optimiser.
        stopped: what was said when it was asked to stop.
        weights: of the student after the last step and, where there are any, their averages; on the first worker.
        buffers: of its student, as the last epoch was validated with.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    parameters: int = 0
    own_parameters: int = 0
    own_moments: int = 0
    stopped: str = ""
    weights: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """At a training: to its end, or until the last worker is asked to stop after so many steps."""

    job: TrainingJob
    stop_after: int | None = None
    overlapped: bool = False  # gradients are exchanged while others are computed, as beside GPUs


def train_jointly(attempts: Sequence[Attempt], folder: Path, size: int = 2) -> list[list[Seen]]:
    """What each worker saw of each attempt, made one after the other by the same processes."""
    folder.mkdir()
    mp.spawn(_work, args=(size, str(folder), list(attempts)), nprocs=size)
    of_rank = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]
    return [[Seen(**seen) for seen in of_attempt] for of_attempt in zip(*of_rank, strict=True)]


def observed(attempt: Attempt, workers: Workers) -> Seen:
    """The attempt in this process, which is one of the workers."""
    encoder._OVERLAPPED = {"cuda", "cpu"} if attempt.overlapped else {"cuda"}
    trainer, seen = Trainer(attempt.job, workers), Seen()

    def note(_: object, __: object, terms: dict[str, Tensor]) -> None:
        seen.steps.append(float(torch.stack(list(terms.values())).detach().double().sum()))

    trainer._objective.register_forward_hook(note)
    try:
        trainer.run(
            lambda _, metrics: seen.epochs.append(metrics),
            lambda: workers.rank == workers.size - 1 and len(seen.steps) == attempt.stop_after,
        )
    except StoppedError as error:
        seen.stopped = str(error)
    parameters = list(trainer._student.parameters())
    seen.parameters = sum(one.numel() for one in parameters)
    seen.own_parameters = sum(local(one).numel() for one in parameters)
    states = trainer._optimiser.state
    seen.own_moments = sum(local(states[one]["exp_avg"]).numel() for one in parameters if one in states)
    seen.buffers = {name: buffer.clone() for name, buffer in trainer._student.named_buffers()}
    averages = {} if trainer._average is None else trainer._average.state_dict()
    seen.weights = gathered(trainer._student.state_dict() | averages, keep=workers.is_first)
    return seen


def _work(rank: int, size: int, folder: str, attempts: Sequence[Attempt]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    seen = [asdict(observed(attempt, Workers.of_process_group())) for attempt in attempts]
    torch.save(seen, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
