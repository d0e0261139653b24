"""Gradients that a forward pass has finished, as autograd passes them on."""

from __future__ import annotations

import torch
from torch import Tensor


# An operator without a derivative of its own: asked for a second one autograd refuses, instead of taking the slopes for
# constants. It reads `scores` for that alone, since a gradient that comes in may itself be a constant.
@torch.library.custom_op("bcls::slopes_of_rows", mutates_args=())
def slopes_of_rows(gradient: Tensor, slopes: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG001
    """(rows, columns) slopes of row sums, by what each of these sums (rows,) is worth."""
    return gradient[:, None].to(slopes.dtype) * slopes


@slopes_of_rows.register_fake
def _(gradient: Tensor, slopes: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(slopes)
