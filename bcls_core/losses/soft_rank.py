"""Soft ranks: where a score stands within its row, as a smooth function of the row's scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bcls_core.losses.blocks import pair_blocks


def soft_ranks(scores: Tensor, tau: float) -> Tensor:
    """`rank_j = 1 + sum_{k != j} sigmoid((s_k - s_j) / tau)` within each row; the best score tends to 1 as tau -> 0.

    The ranks of a row add up to `n (n + 1) / 2` for n columns, and equal scores have equal ranks. The gradient of a
    pair fades as `exp(-|s_k - s_j| / tau)`. Differentiable once: a second derivative is refused with a RuntimeError.
    Time O(rows * columns^2), forward and backward; memory O(rows * columns) and a block.

    Source: the smoothed position of Qin, Liu and Li 2010 (Information Retrieval 13), and of Smooth-AP (Brown et al.
    2020, arXiv 2007.12163).

    Args:
        scores: (rows, columns) float32 or float64, finite, of any magnitude.
        tau: in units of `scores`, above 0.

    Returns:
        (rows, columns), in [1, columns].
    """
    ranks: Tensor = _ranks(scores, tau)
    return ranks


# The loops over blocks are operators of their own, so that a compiler sees one node each instead of thousands.
@torch.library.custom_op("bcls::soft_ranks", mutates_args=())
def _ranks(scores: Tensor, tau: float) -> Tensor:
    scores = scores.contiguous()  # or a transpose is strided through in every block
    ranks = torch.empty_like(scores)
    for rows, columns in pair_blocks(scores):
        # Divided after the difference: s / tau alone may overflow, and inf - inf is NaN.
        beaten = (scores[rows, None, :] - scores[rows, columns, None]).div_(tau).sigmoid_()
        ranks[rows, columns] = beaten.sum(2)
    return ranks.add_(0.5)  # 1, less the column's comparison with itself


@torch.library.custom_op("bcls::soft_ranks_backward", mutates_args=())
def _ranks_backward(gradient: Tensor, scores: Tensor, tau: float) -> Tensor:
    scores, gradient = scores.contiguous(), gradient.contiguous()
    result = torch.empty_like(scores)
    for rows, columns in pair_blocks(scores):
        # sigmoid' is even: taken on the negative side it is exact for pairs far apart, and what j loses to k through
        # its own rank, k gains through its.
        chance = (scores[rows, None, :] - scores[rows, columns, None]).abs_().div_(-tau).sigmoid_()
        slope = chance.addcmul_(chance, chance, value=-1)
        result[rows, columns] = slope.mul_(gradient[rows, None, :] - gradient[rows, columns, None]).sum(2)
    return result.div_(tau)


@_ranks.register_fake
def _ranks_shape(scores: Tensor, tau: float) -> Tensor:  # noqa: ARG001
    return scores.new_empty(scores.shape)


@_ranks_backward.register_fake
def _ranks_backward_shape(gradient: Tensor, scores: Tensor, tau: float) -> Tensor:  # noqa: ARG001
    return scores.new_empty(scores.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG001
    scores, ctx.tau = inputs
    ctx.save_for_backward(scores)


def _pull_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (scores,) = ctx.saved_tensors
    return _ranks_backward(gradient, scores, ctx.tau), None


_ranks.register_autograd(_pull_back, setup_context=_keep)
