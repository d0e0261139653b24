"""An exponential moving average of the weights (EMA): often a better model than the last step's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bcls_core.training.sharding import local, spread


class MovingAverage:
    """Averages of the parameters of a model that are trained when it is made, moved after each step.

    The average at step t = 0, 1, ... keeps `min(decay, (1 + t) / (10 + t))` of itself, so that it soon forgets the
    untrained model. Buffers (running statistics) are the model's own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._steps = decay, 0
        self._own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._averages = {name: parameter.detach().clone() for name, parameter in self._own.items()}

    @torch.no_grad()
    def move(self) -> None:
        """To be called after a step of the optimiser."""
        keep = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        averages, own = ([local(one) for one in side.values()] for side in (self._averages, self._own))
        torch._foreach_lerp_(averages, own, 1 - keep)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages in place of its weights; afterwards it has its own again."""
        before = {name: parameter.detach().clone() for name, parameter in self._own.items()}
        _copy(self._averages, self._own)
        try:
            yield
        finally:
            _copy(before, self._own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter, and the number of steps."""
        return {"steps": torch.tensor(self._steps)} | {f"average.{name}": one for name, one in self._averages.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse."""
        self._steps = int(state["steps"])
        _copy({name: spread(state[f"average.{name}"], one) for name, one in self._averages.items()}, self._averages)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor] | dict[str, nn.Parameter]) -> None:
    for name, value in source.items():
        target[name].copy_(value)
