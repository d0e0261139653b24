"""A GRU over sequences of several lengths, on processors: one loop for both directions, gradients by hand.

There `torch.nn.GRU` differentiates each step by itself and adds up as many gradients of its weights; here steps leave
what these are made of, and one matrix product makes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def both_ways(inputs: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]) -> Tensor:
    """(2, rows, dim) states of a forward and a backward GRU (the cell of `torch.nn.GRU`) over packed sequences.

    Rows are packed as by `pack_padded_sequence`: the first of all sequences, the longest first, then the second of
    those that have one, and so on; the backward direction's are of the reversed sequences.

    Args:
        inputs: (2, rows, 3 dim) what the inputs add to the gates: reset, update, new.
        weight: (2, 3 dim, dim) of the states.
        bias: (2, 3 dim) of the states.
        sizes: sequences that have a first row, a second, ...; they descend.
    """
    states: Tensor = _BothWays.apply(inputs, weight, bias, sizes)  # type: ignore[no-untyped-call]
    return states


class _BothWays(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]) -> Tensor:
        directions, rows, width = inputs.shape
        dim = width // 3
        states, candidates = (inputs.new_empty(directions, rows, dim) for _ in range(2))
        gates = torch.empty_like(inputs)  # reset, update, and what the state adds to the new one before the reset
        state, transposed, start = inputs.new_zeros(directions, sizes[0], dim), weight.transpose(1, 2), 0
        for size in sizes:
            now, state = slice(start, start + size), state[:, :size]
            from_state = torch.baddbmm(bias[:, None], state, transposed, out=gates[:, now])
            reset, update, linear = (from_state[..., part : part + dim] for part in (0, dim, 2 * dim))
            from_state[..., : 2 * dim].add_(inputs[:, now, : 2 * dim]).sigmoid_()
            new = torch.addcmul(inputs[:, now, 2 * dim :], reset, linear, out=candidates[:, now]).tanh_()
            state = torch.lerp(new, state, update, out=states[:, now])
            start += size
        ctx.save_for_backward(weight, states, gates, candidates)
        ctx.sizes = sizes
        return states

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        weight, states, gates, candidates = ctx.saved_tensors
        directions, rows, dim = states.shape
        before = states.new_zeros(directions, rows, dim)  # each row's state one step earlier
        start = ctx.sizes[0]
        for size, last in zip(ctx.sizes[1:], ctx.sizes, strict=False):
            before[:, start : start + size] = states[:, start - last : start - last + size]
            start += size
        reset, update, linear = gates.split(dim, dim=2)
        # What a row's gradient is multiplied by, and then its product: new, reset, update, what the state adds to new.
        of = gates.new_empty(directions, rows, 4, dim)
        of_new = torch.mul(1 - update, 1 - candidates.square(), out=of[:, :, 0])
        of_linear = torch.mul(of_new, reset, out=of[:, :, 3])
        torch.mul(of_linear, linear * (1 - reset), out=of[:, :, 1])
        torch.mul(before - candidates, update * (1 - update), out=of[:, :, 2])
        to_gates = of[:, :, 1:].flatten(2)
        carried = states.new_zeros(directions, ctx.sizes[0], dim)
        for size in reversed(ctx.sizes):
            start -= size
            now, own = slice(start, start + size), carried[:, :size]
            own += gradient[:, now]
            of[:, now] *= own[:, :, None]
            torch.baddbmm(own * update[:, now], to_gates[:, now], weight, out=own)
        of_inputs = torch.cat([of[:, :, 1:3].flatten(2), of[:, :, 0]], dim=2)
        return of_inputs, to_gates.transpose(1, 2) @ before, to_gates.sum(dim=1), None
