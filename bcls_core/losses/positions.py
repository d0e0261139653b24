"""Where a candidate stands among a query's labels."""

from __future__ import annotations

import torch
from torch import Tensor


def label_positions(labels: Tensor) -> Tensor:
    """Per row each candidate's position among the row's distinct labels, 0 for the highest; equal labels share one.

    Args:
        labels: (rows, columns).
    Returns:
        (rows, columns) int64.
    """
    ordered, order = labels.sort(dim=1, descending=True)
    return torch.empty_like(order).scatter_(1, order, positions_of_sorted(ordered))


def positions_of_sorted(ordered: Tensor) -> Tensor:
    """The same of labels that descend along each row already."""
    steps = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    return torch.cat([steps.new_zeros(len(ordered), 1), steps], 1)
