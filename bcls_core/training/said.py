"""What a teacher says of a step's pairs, in the form in which it crosses to the device that trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


class Said(Protocol):
    """About rows of this worker's pairs and columns of the whole step's."""

    def to(self, device: torch.device) -> Said: ...

    def matrix(self) -> Tensor:
        """(rows, columns) float32."""
        ...


@dataclass(frozen=True)
class SaidOfPairs:
    """A number for each pair: of teachers that compare what is no vector, or whose numbers are probabilities.

    Attributes:
        values: (rows, columns) float32.
    """

    values: Tensor

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> SaidOfPairs:
        return cls(torch.from_numpy(values))

    def to(self, device: torch.device) -> SaidOfPairs:
        return SaidOfPairs(self.values.to(device, non_blocking=True))

    def matrix(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class SaidByVectors:
    """The vectors whose cosines are meant; compared where training computes, which is less to carry and to wait for.

    Attributes:
        rows, columns: (rows, dimension), (columns, dimension) fp16.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, rows: NDArray[np.float16], columns: NDArray[np.float16]) -> SaidByVectors:
        return cls(torch.from_numpy(rows), torch.from_numpy(columns))

    def to(self, device: torch.device) -> SaidByVectors:
        return SaidByVectors(self.rows.to(device, non_blocking=True), self.columns.to(device, non_blocking=True))

    def matrix(self) -> Tensor:
        """Cosines in float32; those that a label set publishes, but for its rounding."""
        rows, columns = (functional.normalize(side.float(), dim=1) for side in (self.rows, self.columns))
        return rows @ columns.T
