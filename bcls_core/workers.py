"""Who trains beside me, and how encodings, normalisers and gradients cross between us."""

from __future__ import annotations

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
        """Does what data parallelism does, for parameters outside of it, such as a loss's temperature.

        Those that have gradients must be the same on all workers.
        """
        if self.size == 1:
            return
        of_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                of_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in of_type.values():
            joint = torch.cat([gradient.reshape(-1) for gradient in gradients])  # one exchange instead of many
            dist.all_reduce(joint)
            joint /= self.size
            parts = torch.split(joint, [one.numel() for one in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every worker the first one's buffers (running statistics and the like)."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


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
