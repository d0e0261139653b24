"""Who trains beside me, and how encodings, normalisers and gradients cross between us."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bcls_core.errors import ShapeError


@dataclass(frozen=True)
class Workers:
    """The training processes of the default process group: this one's rank and how many there are.

    Together they compute the losses of one joint batch: each gathers everybody's encodings, scores its own rows against
    all columns, and divides by normalisers summed over all. The shares of the workers then add up to the loss of the
    joint batch, and so do the gradients. Data parallelism averages gradients, so what a worker propagates back is its
    share times the number of workers.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_process_group(cls) -> Workers:
        """The default process group's, or a single worker where none is initialised."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def rows(self, sizes: Sequence[int]) -> slice:
        """Where this worker's rows are among everybody's, whose numbers are `sizes`."""
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Everybody's rows, in rank order, differentiable: a row's gradient is summed over the workers that used it.

        Args:
            rows: (sizes[rank], dim) this worker's rows.
            sizes: rows of each worker; known to all from the batch plan, so nothing is exchanged to learn them.
        Returns:
            (sum(sizes), dim), equal on all workers.
        Raises:
            ShapeError: another number of rows than `sizes` says.
        """
        if len(rows) != sizes[self.rank]:
            raise ShapeError(f"rows: {len(rows)} on worker {self.rank}, but sizes says {tuple(sizes)}.")
        if self.size == 1:
            return rows
        return _GatherRows.apply(rows, self.rank, tuple(sizes))  # type: ignore[no-any-return, no-untyped-call]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the workers of equally shaped values, without gradient."""
        if self.size == 1:
            return values.detach()
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def largest(self, values: Tensor) -> Tensor:
        """The element-wise maximum over the workers of equally shaped values, without gradient."""
        if self.size == 1:
            return values.detach()
        found = values.detach().clone()
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Does what data parallelism does: each has the mean of all workers' gradients.

        A parameter without a gradient counts as zeros where another worker has one, and is left alone if nobody has
        one. All are exchanged at once, in a layout that is the same in every step, and so are the sums, bit for bit.

        Args:
            parameters: the same on all workers; those that ask for no gradient are left out.
        """
        if self.size == 1:
            return
        of_type: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                of_type.setdefault(parameter.dtype, []).append(parameter)
        for alike in of_type.values():
            present = alike[0].new_tensor([float(one.grad is not None) for one in alike])
            flat = [(torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1) for one in alike]
            joint = torch.cat([*flat, present])
            dist.all_reduce(joint)
            *means, somewhere = torch.split(joint, [*map(len, flat), len(alike)])
            for parameter, mean, count in zip(alike, means, somewhere.tolist(), strict=True):
                if count:
                    mean = (mean / self.size).view_as(parameter)
                    parameter.grad = mean if parameter.grad is None else parameter.grad.copy_(mean)

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every worker the first one's buffers (running statistics and the like), of any type and layout."""
        buffers = [buffer for buffer in model.buffers() if buffer.numel()]
        if self.size == 1 or not buffers:
            return
        flat = [buffer.detach().contiguous().reshape(-1).view(torch.uint8) for buffer in buffers]
        joint = torch.cat(flat)
        dist.broadcast(joint, src=0)
        if not self.is_first:
            with torch.no_grad():
                for buffer, part in zip(buffers, torch.split(joint, [*map(len, flat)]), strict=True):
                    buffer.copy_(part.clone().view(buffer.dtype).view(buffer.shape))  # a clone lies aligned


def usable_processors() -> int:
    """Of this machine, those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, sizes: tuple[int, ...]) -> Tensor:
        ctx.start, ctx.stop = sum(sizes[:rank]), sum(sizes[: rank + 1])
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.stop], None, None
