"""Which images are drawn: the resamples that every metric, seed and model of an evaluation share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ConfigError, ShapeError

_HELD = 2**20  # counts of a block, 8 MB


@dataclass(frozen=True)
class ImageResamples:
    """`resamples` draws of as many images as there are, with replacement; an image comes with all its queries.

    Captions of one image are not independent, so images are drawn, never captions. The gallery stays as it is: what is
    drawn is who asks. The same object gives the same draws to whatever is evaluated on it, so differences are paired.

    Args:
        images: number of images, at least 2. Those whose queries a metric leaves out are drawn as well: how many
            queries are answered is then a random number, as it is in a new sample of images.
        resamples: number of draws.
        seed: of the draws; equal seeds give equal draws on every machine.

    Raises:
        ShapeError: fewer than 2 images, among which nothing varies.
        ConfigError: no resamples, or a negative seed.
    """

    images: int
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 2:
            raise ShapeError(f"images: {self.images}, but an interval needs at least 2 images to draw from.")
        if self.resamples < 1 or self.seed < 0:
            raise ConfigError(f"resamples: {self.resamples}, seed: {self.seed}; expected at least 1, and at least 0.")

    def blocks(self, length: int | None = None) -> Iterator[NDArray[np.float64]]:
        """(block, images) how often each image is drawn, for one block of resamples after another; whole numbers.

        Args:
            length: resamples a block, or what fits in 8 MB; the draws do not depend on it.
        """
        length = length or max(1, _HELD // self.images)
        generator = np.random.default_rng([self.seed, 0])
        for start in range(0, self.resamples, length):
            counts = np.empty((min(length, self.resamples - start), self.images))
            for row in counts:
                row[:] = np.bincount(generator.integers(self.images, size=self.images), minlength=self.images)
            yield counts

    def levels(self) -> NDArray[np.float64]:
        """(resamples,) evenly spaced probabilities in random order, independent of the images drawn.

        Any distribution's quantiles at these levels are a sample of it that lacks the noise of its own quantiles.
        """
        order = np.random.default_rng([self.seed, 1]).permutation(self.resamples)
        return (order + 0.5) / self.resamples
