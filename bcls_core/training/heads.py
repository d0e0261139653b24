"""Heads for scores within a side: how alike two images are, or two captions, apart from what serves matching them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.errors import ConfigError

_SIDES = {"image-image": "images", "caption-caption": "captions"}


class UniModalHeads(nn.Module):
    """Layer norm and a linear map of encodings, a side each; the score is the cosine of what they give.

    They follow a student's encodings, so any student has them, and are part of training alone: like the temperatures of
    losses they are not in the model that it leaves.

    Args:
        dims: of each side, how long its encodings are.
        seed: of the weights.
    """

    def __init__(self, dims: Mapping[str, int], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            for place, side in enumerate(_SIDES):
                if side in dims:  # drawn alike, whatever other sides there are
                    state = np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0]
                    torch.manual_seed(int(state >> np.uint64(1)))
                    self.add_module(side, nn.Sequential(nn.LayerNorm(dims[side]), nn.Linear(dims[side], dims[side])))

    def scores(self, side: str, mine: Tensor, every: Tensor) -> Tensor:
        """(mine, every) cosines.

        Args:
            mine: (rows, dim) encodings of one worker's images, or captions.
            every: (step's rows, dim) of all; `mine` itself where there is one worker.
        """
        head = self.get_submodule(side)
        columns = functional.normalize(head(every), dim=-1)
        rows = columns if mine is every else functional.normalize(head(mine), dim=-1)
        return rows @ columns.T


def encoding_dims(sides: Mapping[str, Tensor]) -> dict[str, int]:
    """Length of the encodings of each side that is asked for.

    Args:
        sides: side -> its encodings of one row or more.
    Raises:
        ConfigError: a side's encodings are no vectors.
    """
    for side, encodings in sides.items():
        if not isinstance(encodings, Tensor) or encodings.ndim != 2:
            found = f"of shape {tuple(encodings.shape)}" if isinstance(encodings, Tensor) else f"as {type(encodings)}"
            raise ConfigError(
                f"train.objective: soft-label between {side} needs a vector for each of the student's "
                f"{_SIDES[side]}, found encodings {found}. Leave {side} out."
            )
    return {side: encodings.shape[1] for side, encodings in sides.items()}
