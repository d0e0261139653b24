"""A worked batch of four with known values of the losses, and a meter for the largest tensor that is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@pytest.fixture
def worked_scores() -> Tensor:
    rows = [[0.60, 0.55, 0.10, -0.05], [0.30, 0.50, 0.45, 0.00], [0.05, 0.40, 0.35, 0.20], [-0.10, 0.15, 0.25, 0.70]]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture
def worked_labels() -> Tensor:
    rows = [[1, 0.8, 0.2, 0.1], [0.7, 1, 0.5, 0.15], [0.25, 0.55, 1, 0.3], [0.1, 0.2, 0.35, 1]]
    return torch.tensor(rows, dtype=torch.float64)


class _LargestOutput(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@pytest.fixture
def largest_tensors() -> Callable[[Callable[[], Tensor]], tuple[int, int]]:
    """Run a scalar function forward and backward: elements of the largest tensor made, and of the largest one saved."""

    def measure(function: Callable[[], Tensor]) -> tuple[int, int]:
        saved = [0]

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        with _LargestOutput() as made:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                value = function()
            value.backward()
        return made.elements, max(saved)

    return measure
