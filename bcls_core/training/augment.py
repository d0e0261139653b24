"""Pictures varied at random while training, the same for the same seed, epoch and caption, whoever prepares them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bcls_core.config import AugmentSettings
from bcls_core.students.preprocess import RawImage, decode

_RATIO = 4 / 3  # widest and narrowest shape of a crop
_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """Random crops and mirror images.

    Attributes:
        seed: of the training.
    """

    settings: AugmentSettings
    seed: int

    def __call__(self, image: RawImage, epoch: int, caption_id: int) -> Image.Image:
        """One picture as it is shown beside a caption in an epoch.

        Raises:
            OSError: the bytes are not an image, or are cut off.
        """
        # The raw stream, whose numbers no later numpy changes.
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch, caption_id]))
        draw = iter((bits.random_raw(2 * _TRIES + 3) >> np.uint64(11)).astype(np.float64) * 2.0**-53)
        picture = decode(image)
        if self.settings.crop < 1.0:
            picture = picture.crop(self._box(picture.size, draw))
        if self.settings.flip and next(draw) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Image.fromarray(np.asarray(picture))  # pixels alone: an orientation tag would be followed once more

    def _box(self, size: tuple[int, int], draw: Iterator[float]) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge of a crop: area and shape are drawn, then its place."""
        width, height = size
        for _ in range(_TRIES):
            area = width * height * (self.settings.crop + (1 - self.settings.crop) * next(draw))
            ratio = math.exp(math.log(_RATIO) * (2 * next(draw) - 1))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                left, upper = int(next(draw) * (width - wide + 1)), int(next(draw) * (height - high + 1))
                return left, upper, left + wide, upper + high
        return 0, 0, width, height
