"""Who trains beside me, and how encodings cross between us with their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """The training processes: this one's rank and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_process_group(cls) -> Workers:
        """The default process group's, or a single worker where none is initialised."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share_buffers(self, model: nn.Module) -> None:
        """Gives every worker the first one's buffers (running statistics and the like)."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Everybody's rows, in rank order, differentiable.

        Args:
            rows: (sizes[rank], dim) this worker's rows.
            sizes: rows of each worker; known to all from the batch plan, so nothing is exchanged to learn them.
        Returns:
            (sum(sizes), dim), equal on all workers.
        """
        if self.size == 1:
            return rows
        return _GatherRows.apply(rows, self.rank, tuple(sizes))  # type: ignore[no-any-return, no-untyped-call]


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward keeps this worker's rows.

    Every worker computes the whole batch's loss from the gathered rows, so each already holds the complete gradient of
    its own rows. Data parallelism then *averages* parameter gradients over workers where the joint batch's gradient is
    their *sum*; multiplying by the worker count here makes the two equal, and leaves a loss's own parameters, whose
    gradients are equal on all workers, untouched.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, sizes: tuple[int, ...]) -> Tensor:
        ctx.start, ctx.stop, ctx.workers = sum(sizes[:rank]), sum(sizes[: rank + 1]), len(sizes)
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.start : ctx.stop] * ctx.workers, None, None
