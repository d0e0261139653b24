"""How much a row of scores disagrees with the order of its labels: sums over pairs, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bcls_core.losses.blocks import pair_blocks
from bcls_core.losses.hinge import hinge_discordance
from bcls_core.losses.positions import label_positions
from bcls_core.losses.slopes import slopes_of_rows
from bcls_core.losses.windows import HardPairs, hard_pairs

Surrogate = Literal["hinge", "softplus", "sigmoid", "tanh"]
Sampling = Literal["exact", "dead-zone", "local"]


def _hinge(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return F.relu(difference), torch.gt(difference, 0, out=torch.empty_like(difference))


def _softplus(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    slope = torch.sigmoid(difference / tau)
    return F.relu(difference) + tau * torch.log1p(torch.exp(-difference.abs() / tau)), slope


def _sigmoid(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    chance = torch.sigmoid(difference / tau)
    return chance, chance * (1 - chance) / tau


def _tanh(difference: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    chance = torch.sigmoid(difference * (2 / tau))  # 1 + tanh(x) = 2 sigmoid(2 x), which is several times cheaper
    return 2 * chance, 4 * chance * (1 - chance) / tau


_SURROGATES: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "hinge": _hinge,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
}


def row_discordance(
    scores: Tensor,
    labels: Tensor,
    *,
    gap: float,
    surrogate: Surrogate,
    margin: float,
    tau: float,
    sampling: Sampling = "exact",
    window: int = 1,
    stride: int = 1,
    hard: bool = False,
) -> tuple[Tensor, Tensor]:
    """For each row i the sum of `f(s_ik - s_ij + margin)` over its ordered pairs, and their number.

    A pair (j, k) is ordered iff the difference `R_ij - R_ik`, rounded in the labels' own dtype, is > gap. Sampling
    restricts them by positions p among the distinct labels of the row, 0 for the highest:

    - `dead-zone`: to those with `p_k >= p_j + window`; a window of 1 is `exact`
    - `local`: to those of windows at positions a = 0, stride, 2 stride, ...: `a <= p_j < a + window // 2 <= p_k < a +
      window`; a pair that lies in several windows is one pair in each

    `hard` keeps for each j the best-scored of these k, or in each local window the pair with the largest `s_k - s_j`.

    The gradient is finished in the forward pass, memory is O(rows * columns). `hard` is linear in the columns after a
    sort; the exact and the dead-zone hinge on a CPU are cheap, too (`hinge_discordance`); everything else
    takes O(rows * columns^2), in blocks.

    Args:
        scores: (rows, columns) float32 or float64.
        labels: (rows, columns) of any floating dtype; gets no gradient.
        gap: >= 0; rounded to the labels' dtype.
        surrogate: f(d) is `hinge` `[d]_+`, `softplus` `tau log(1 + exp(d / tau))`, `sigmoid` `1 / (1 + exp(-d / tau))`,
            `tanh` `1 + tanh(d / tau)`.
        margin: in units of `scores`.
        tau: in units of `scores`; the hinge has none.
        sampling: which ordered pairs are looked at.
        window: >= 1 for `dead-zone`, where 1 asks for no more than the gap; >= 2 for `local`.
        stride: >= 1, of `local`.
        hard: keep the hardest pairs only.

    Returns:
        Sums (rows,), differentiable once with respect to `scores`, and counts (rows,); both float64, so that counts
        stay exact.
    """
    sums, counts = _RowDiscordance.apply(  # type: ignore[no-untyped-call]
        scores, labels, gap, surrogate, margin, tau, sampling, window, stride, hard
    )
    return sums, counts


class _RowDiscordance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
        # To torch.compile one operation: it cannot see into compiled code, and would unroll blocks.
        compute = _as_operation if torch.compiler.is_compiling() else _discordance
        sums, counts, slopes = compute(scores, *settings)
        ctx.save_for_backward(slopes, scores)
        ctx.mark_non_differentiable(counts)
        return sums, counts

    @staticmethod
    def backward(ctx: Any, grad_sums: Tensor, grad_counts: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return slopes_of_rows(grad_sums, *ctx.saved_tensors), *[None] * 9


def _discordance(
    scores: Tensor,
    labels: Tensor,
    gap: float,
    surrogate: str,
    margin: float,
    tau: float,
    sampling: str,
    window: int,
    stride: int,
    hard: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    gap = float(torch.tensor(gap, dtype=labels.dtype))
    if labels.dtype in (torch.float16, torch.bfloat16):
        labels, gap = labels.float(), _widened_gap(gap, labels.dtype)
    if hard:
        pairs = hard_pairs(scores, labels, gap=gap, sampling=sampling, window=window, stride=stride)
        return _of_pairs(scores, pairs, surrogate, margin, tau)
    if surrogate == "hinge" and scores.device.type == "cpu" and sampling != "local":
        return hinge_discordance(scores, labels, gap=gap, window=window, margin=margin)
    weigh = _weights(labels, sampling, window, stride)
    return _in_blocks(scores.contiguous(), labels.contiguous(), gap, surrogate, margin, tau, weigh)


_as_operation = torch.library.custom_op("bcls::row_discordance", _discordance, mutates_args=())


@_as_operation.register_fake
def _(scores: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    sums = scores.new_empty(scores.shape[0], dtype=torch.float64)
    return sums, torch.empty_like(sums), torch.empty_like(scores, memory_format=torch.contiguous_format)


def _of_pairs(
    scores: Tensor, pairs: HardPairs, surrogate: str, margin: float, tau: float
) -> tuple[Tensor, Tensor, Tensor]:
    absent = pairs.absent
    difference = (scores.gather(1, pairs.losers) - scores.gather(1, pairs.winners)).masked_fill_(absent, -torch.inf)
    value, slope = _SURROGATES[surrogate](difference.add_(margin), tau)  # both 0 where there is no pair
    slopes = torch.zeros_like(scores, memory_format=torch.contiguous_format)
    slopes.scatter_add_(1, pairs.losers, slope).scatter_add_(1, pairs.winners, slope.neg_())
    return value.sum(1, dtype=torch.float64), (~absent).sum(1).double(), slopes


_Weights = Callable[[slice, slice], Tensor | None]


def _weights(labels: Tensor, sampling: str, window: int, stride: int) -> _Weights:
    """How often a pair whose labels are far enough apart counts, per block of (rows, winners, losers)."""
    if sampling == "exact":
        return lambda rows, columns: None  # noqa: ARG005
    positions = label_positions(labels)

    def weights(rows: slice, columns: slice) -> Tensor:
        upper, lower = positions[rows, columns, None], positions[rows, None, :]
        if sampling == "dead-zone":
            return lower - upper >= window
        # The window starts at a multiple of the stride in (least, most].
        most = torch.minimum(upper, lower - window // 2)
        least = torch.maximum(upper - window // 2, lower - window).clamp_(min=-1)
        return (most.div_(stride, rounding_mode="floor") - least.div_(stride, rounding_mode="floor")).clamp_(min=0)

    return weights


def _in_blocks(
    scores: Tensor, labels: Tensor, gap: float, surrogate: str, margin: float, tau: float, weigh: _Weights
) -> tuple[Tensor, Tensor, Tensor]:
    sums = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    counts, slopes = torch.zeros_like(sums), torch.zeros_like(scores)
    largest = torch.finfo(scores.dtype).max
    for rows, columns in pair_blocks(scores):
        # Compared in place the result is 0 and 1 in the same dtype: on a CPU much faster than reading booleans.
        ordered = (labels[rows, columns, None] - labels[rows, None, :]).gt_(gap).to(scores.dtype)
        weights = weigh(rows, columns)
        if weights is not None:
            ordered *= weights
        difference = scores[rows, None, :] - scores[rows, columns, None]
        if margin:
            difference += margin
        # Those of unordered pairs are multiplied by 0, which makes NaN of what overflowed.
        value, slope = _SURROGATES[surrogate](difference.clamp_(-largest, largest), tau)
        sums[rows] += value.mul_(ordered).sum((1, 2))
        counts[rows] += ordered.sum((1, 2))
        slope.mul_(ordered)
        slopes[rows] += slope.sum(1)
        slopes[rows, columns] -= slope.sum(2)
    return sums, counts, slopes


def _widened_gap(gap: float, dtype: torch.dtype) -> float:
    """The largest float32 that rounds to at most `gap` in a half precision, so that differences need no rounding.

    A half difference is a float32 difference rounded to even: it is above the gap iff the float32 one is above, or, if
    the gap's last digit is odd, at the middle between the gap and the next number.
    """
    here = torch.tensor(gap, dtype=dtype)
    above = torch.nextafter(here, torch.tensor(torch.inf, dtype=dtype))
    middle = (here.double() + above.double()).div(2).float()
    return float(middle if middle.to(dtype) == here else torch.nextafter(middle, torch.tensor(-torch.inf)))
