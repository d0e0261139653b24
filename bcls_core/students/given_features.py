"""The image side of a student whose corpus was made from features: no tower, no pictures, a projection alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bcls_core.errors import ModelError
from bcls_core.students.base import Batch


class GivenFeatures(nn.Module):
    """Stands where a tower stands; what it would compute is in the corpus.

    Args:
        dim: length of an image's features.
    """

    side = "image"
    frozen = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, batch: Batch) -> Tensor:
        """Never features: those go to the projection. Raises ModelError."""
        raise ModelError(
            f"this student takes image features, found {', '.join(batch) or 'nothing'}.\n"
            "  Read a corpus made from features, or train a student with an image tower."
        )

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {"features": self.dim}
