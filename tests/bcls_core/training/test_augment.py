"""Pictures that are varied: repeatably, as far as the settings say, and pixels alone."""

from __future__ import annotations

import hashlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from bcls_core.config import AugmentSettings
from bcls_core.training.augment import Augmentation


def picture(width: int = 60, height: int = 40, **options: object) -> bytes:
    """Every pixel says where it is."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x * 4, y * 4, np.zeros_like(x)], axis=-1).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def shown(settings: AugmentSettings, epoch: int = 1, caption: int = 0, seed: int = 0) -> np.ndarray:
    return np.asarray(Augmentation(settings, seed)(picture(), epoch, caption)).astype(int) // 4


CROP, FLIP = AugmentSettings(crop=0.5), AugmentSettings(flip=True)


def test_a_crop_is_a_part_of_the_picture_as_it_is() -> None:
    areas, ratios, corners = [], [], set()
    for caption in range(300):
        found = shown(CROP, caption=caption)
        high, wide = found.shape[:2]
        left, upper = found[0, 0, 0], found[0, 0, 1]
        assert (found[..., 0] == left + np.arange(wide)).all()
        assert (found[..., 1] == upper + np.arange(high)[:, None]).all()
        areas.append(high * wide / (60 * 40))
        ratios.append(wide / high)
        corners.add((left, upper))
    assert 0.48 < min(areas) < 0.55 < 0.95 < max(areas) <= 1
    assert 0.7 < min(ratios) < 0.9 < 1.2 < max(ratios) <= 1.5 + 1e-9
    assert len(corners) > 100


def test_half_of_the_pictures_are_mirrored() -> None:
    mirrored = [shown(FLIP, caption=caption)[0, 0, 0] == 59 for caption in range(400)]
    assert 160 < sum(mirrored) < 240
    assert shown(AugmentSettings(crop=1.0)).tolist() == (np.asarray(Image.open(BytesIO(picture()))) // 4).tolist()


def test_seed_epoch_and_caption_say_how() -> None:
    both = AugmentSettings(crop=0.3, flip=True)
    first = shown(both, 2, 5, 7)
    assert shown(both, 2, 5, 7).tolist() == first.tolist()
    for other in ((3, 5, 7), (2, 6, 7), (2, 5, 8)):
        assert shown(both, *other).tolist() != first.tolist()


def test_what_is_shown_is_the_same_for_good() -> None:
    digest = hashlib.sha256()
    for caption in range(20):
        digest.update(shown(AugmentSettings(crop=0.3, flip=True), caption=caption).astype(np.uint8).tobytes())
    assert digest.hexdigest() == "3242cdd22edc1e38a09cbb209db45a63e44a998ba4ab156e655621e52607303f"


@pytest.mark.parametrize("orientation", [1, 6])
def test_orientation_is_followed_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = Augmentation(AugmentSettings(crop=1.0, flip=False), 0)(picture(exif=exif), 1, 0)
    assert found.size == ((60, 40) if orientation == 1 else (40, 60))
    assert found.getexif() == {}
