"""How much a row of scores disagrees with the order of its labels: sums over pairs, in blocks, and their gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Surrogate = Literal["hinge", "softplus", "sigmoid", "tanh"]

# Elements of one block. A CPU is fastest while a block's few temporaries stay in the second-level cache; an accelerator
# wants few launches.
CPU_BLOCK = 2**17
ACCELERATOR_BLOCK = 2**24


def _hinge(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return F.relu(difference), torch.gt(difference, 0, out=torch.empty_like(difference))


def _softplus(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    scaled = difference / tau
    return F.logsigmoid(-scaled) * -tau, torch.sigmoid(scaled)


def _sigmoid(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    chance = torch.sigmoid(difference / tau)
    return chance, chance * (1 - chance) / tau


def _tanh(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    chance = torch.sigmoid(difference * (2 / tau))  # 1 + tanh(x) = 2 sigmoid(2 x), which is several times cheaper
    return 2 * chance, 4 * chance * (1 - chance) / tau


_SURROGATES: dict[Surrogate, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "hinge": _hinge,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
}


def row_discordance(
    scores: Tensor, labels: Tensor, *, gap: float, surrogate: Surrogate, margin: float, tau: float
) -> tuple[Tensor, Tensor]:
    """For each row i the sum of `f(s_ik - s_ij + margin)` over its ordered pairs, and their number.

    A pair (j, k) is ordered iff the difference `R_ij - R_ik`, rounded in the labels' own dtype, is > gap. Takes
    O(rows * columns^2) time, and the memory of one block besides O(rows * columns): the gradient is finished in the
    forward pass, and nothing larger is kept for the backward pass.

    Args:
        scores: (rows, columns) float32 or float64.
        labels: (rows, columns) of any floating dtype; gets no gradient.
        gap: >= 0, representable in the labels' dtype (`resolve_gap`).
        surrogate: f(d) is `hinge` `[d]_+`, `softplus` `tau log(1 + exp(d / tau))`, `sigmoid` `1 / (1 + exp(-d / tau))`,
            `tanh` `1 + tanh(d / tau)`.
        margin: in units of `scores`.
        tau: in units of `scores`; the hinge has none.

    Returns:
        Sums (rows,), differentiable once with respect to `scores`, and counts (rows,); both float64, so that counts
        stay exact.
    """
    sums, counts = _RowDiscordance.apply(scores, labels, gap, surrogate, margin, tau)  # type: ignore[no-untyped-call]
    return sums, counts


class _RowDiscordance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, labels: Tensor, gap: float, surrogate: Surrogate, margin: float, tau: float
    ) -> tuple[Tensor, Tensor]:
        sums = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
        counts = torch.zeros_like(sums)
        slopes = torch.zeros_like(scores)
        scores, labels = scores.contiguous(), labels.contiguous()  # or a transpose is strided through in every block
        raised = scores + margin
        for rows, columns in pair_blocks(scores):
            # Compared in place the result is 0 and 1 in the same dtype: on a CPU much faster than reading booleans.
            ordered = (labels[rows, columns, None] - labels[rows, None, :]).gt_(gap).to(scores.dtype)
            difference = raised[rows, None, :] - scores[rows, columns, None]
            value, slope = _SURROGATES[surrogate](difference, tau)
            sums[rows] += value.mul_(ordered).sum((1, 2))
            counts[rows] += ordered.sum((1, 2))
            slope.mul_(ordered)
            slopes[rows] += slope.sum(1)
            slopes[rows, columns] -= slope.sum(2)
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor, grad_counts: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        (slopes,) = ctx.saved_tensors
        return grad_sums[:, None].to(slopes.dtype) * slopes, None, None, None, None, None


def pair_blocks(matrix: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut the (rows, columns, columns) pairs of a matrix: rows and first columns of each block; its second are all."""
    rows, columns = matrix.shape
    budget = CPU_BLOCK if matrix.device.type == "cpu" else ACCELERATOR_BLOCK
    row_step = max(1, budget // columns**2)
    column_step = min(columns, max(1, budget // columns))
    for row in range(0, rows, row_step):
        for column in range(0, columns, column_step):
            yield slice(row, row + row_step), slice(column, column + column_step)
