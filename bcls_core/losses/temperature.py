"""A learned temperature that stays within bounds, and scores divided by a temperature without overflow.

Example:
    >>> temperature = Temperature(0.05, lowest=0.01, highest=0.10)
    >>> info_nce_loss(scores, tau=temperature()).backward()
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.checks import require_positive
from bcls_core.losses.directions import ALONE
from bcls_core.workers import Workers


class Temperature(nn.Module):
    """A temperature tau = exp(log_tau), learned, positive, and never outside [lowest, highest].

    The parameter is the logarithm, because losses read `scores / tau`: what matters is by which factor tau changes. An
    optimiser's step then multiplies tau, the same step by the same factor wherever tau is, whereas a step of 0.001 in
    tau itself would be a hundredth at 0.10 and a tenth at 0.01.

    A step may carry the parameter out of the interval. tau then is the bound, and of the gradient there only what
    leads back is kept: 0 where a descent step would go further out, else that of the bound. So the parameter neither
    drifts away nor is stuck outside, as behind a plain clamp, and it is never overwritten, so any number of forwards
    may precede a backward; each one's gradient is judged by itself.

    Leave the parameter out of weight decay, which would pull tau towards 1.

    Args:
        start: tau before training, in units of the scores, as are the bounds.
        lowest, highest: the interval, `0 < lowest <= start <= highest`.

    Attributes:
        log_tau: scalar parameter, float32.

    Raises:
        ConfigError: the bounds are no interval of positive numbers, or `start` lies outside.
    """

    def __init__(self, start: float, *, lowest: float, highest: float) -> None:
        super().__init__()
        if not 0 < lowest <= start <= highest < math.inf:
            raise ConfigError(
                f"temperature: starts at {start} with bounds [{lowest}, {highest}], expected "
                "0 < lowest <= start <= highest. Start inside of the bounds, or widen them."
            )
        self.start = start
        self.lowest = lowest
        self.highest = highest
        self.log_tau = nn.Parameter(torch.tensor(math.log(start), dtype=torch.float32))

    def forward(self, workers: Workers = ALONE) -> Tensor:
        """tau, a scalar in the parameter's dtype.

        Args:
            workers: who computes the other shares of the loss. Outside of the interval all must call this in step, for
                whether a gradient leads back is decided on the sum over them; what each gets is still its own share.
        """
        return _BoundedExp.apply(self.log_tau, self.lowest, self.highest, workers)  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in ("start", "lowest", "highest"))


class _BoundedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_tau: Tensor, lowest: float, highest: float, workers: Workers) -> Tensor:
        unbounded = log_tau.exp()
        tau = unbounded.clamp(lowest, highest)
        ctx.save_for_backward(unbounded, tau)
        ctx.workers = workers
        return tau

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        unbounded, tau = ctx.saved_tensors
        joint = ctx.workers.sum(gradient)
        leads_out = ((unbounded > tau) & (joint <= 0)) | ((unbounded < tau) & (joint >= 0))
        return (gradient * tau).masked_fill(leads_out, 0.0), None, None, None


def temperature_of(tau: float | Tensor | Temperature, workers: Workers = ALONE) -> float | Tensor:
    """What to divide by: a learned temperature's present tau, anything else as it is."""
    return tau(workers) if isinstance(tau, Temperature) else tau


def require_temperature(name: str, tau: float | Tensor) -> None:
    """Refuse a number that is not above zero and a tensor that is no scalar.

    What a tensor holds is not read: on an accelerator that would have to be waited for.

    Raises:
        ConfigError: the first of these.
        ShapeError: the second.
    """
    if isinstance(tau, Tensor):
        require_scalar(name, tau)
    else:
        require_positive(name, tau)


def require_scalar(name: str, value: float | Tensor) -> None:
    """Raises ShapeError where a tensor is not 0-dimensional: it would be spread over rows or columns unnoticed."""
    if isinstance(value, Tensor) and value.ndim > 0:
        raise ShapeError(f"{name}: shape {tuple(value.shape)}, expected a number or a tensor of shape ().")


def tempered(scores: Tensor, tau: float | Tensor) -> Tensor:
    """`(s_ij - max_k s_ik) / tau`, at most 0: what a softmax or a logsumexp over rows may read instead of `s / tau`.

    The maximum goes before the division, so that only what vanishes in the softmax can overflow, and it has no
    gradient, because the softmax does not depend on it. A learned tau gets a finite gradient while differences of
    scores, divided by tau squared, can be represented.

    Args:
        scores: (queries, gallery), float32 or wider.
        tau: a positive number or scalar tensor.
    """
    # A product, not a quotient: dividing, the gradient of tau is 0 * inf = NaN where a quotient overflows.
    return (scores - scores.detach().amax(1, keepdim=True)) * (1 / tau)
