"""Copies of pictures between splits, planted in a corpus on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcls_core.audit.pictures import match_pictures, sign_pictures


@pytest.fixture(scope="module")
def planted(make_ground: Callable[..., Any], encode: Callable[..., bytes], picture: Callable[..., Any]) -> Any:
    def change(_: Any, pictures: dict[str, bytes]) -> None:
        scene = picture(7, (160, 120))
        pictures["train-0-2.png"] = encode(scene)
        pictures["test-3-0.png"] = encode(scene, "JPEG", quality=35)
        pictures["train-1-1.png"] = pictures["test-3-1.png"]
        pictures["train-1-4.png"] = encode(picture(8), compress_level=0)
        pictures["train-1-5.png"] = pictures["train-1-4.png"]
        pictures["test-3-2.png"] = encode(picture(8), compress_level=9)
        # Stripes that rise alike have one hash, whatever their colours.
        pictures["train-0-5.png"] = encode(stripes((255, 40, 40)))
        pictures["test-3-3.png"] = encode(stripes((40, 40, 255)))

    return make_ground(change=change)


def stripes(colour: tuple[int, int, int]) -> Image.Image:
    ramp = np.linspace(0, 1, 68)[None, :, None] * np.array(colour) + np.zeros((64, 1, 1))
    return Image.fromarray(ramp.astype(np.uint8))


def test_each_kind_of_copy_is_found_once(planted: Any) -> None:
    train, test = planted.rows("train"), planted.rows("test")
    found = match_pictures(test, sign_pictures(test), train, sign_pictures(train))
    names = list(train.image_ids)
    assert found.files.tolist() == [-1, names.index("train-1-1.png")] + [-1] * 5
    assert found.pixels.tolist() == [-1, names.index("train-1-1.png"), names.index("train-1-4.png")] + [-1] * 4
    near = [names.index(name) for name in ("train-0-2.png", "train-1-1.png", "train-1-4.png")]
    assert found.near.tolist() == near + [-1] * 4, "equal stripes of other colours are other pictures"
    assert found.bits[0] > 0
    assert found.bits[1:].tolist() == [0, 0] + [-1] * 4


def test_the_stripes_are_proposed_by_their_hashes_alone(planted: Any) -> None:
    train, test = sign_pictures(planted.rows("train")), sign_pictures(planted.rows("test"))
    place = list(planted.rows("train").image_ids).index("train-0-5.png")
    assert sum(int(a ^ b).bit_count() for a, b in zip(train.hashes[place], test.hashes[3], strict=True)) <= 40


def test_reach_can_be_set(planted: Any) -> None:
    train, test = planted.rows("train"), planted.rows("test")
    found = match_pictures(test, sign_pictures(test), train, sign_pictures(train), within=0)
    assert found.near[0] == -1, "the picture saved anew has another hash"
    assert (found.near[1:3] >= 0).all()


def test_every_picture_is_read_and_told(ground: Any) -> None:
    told: list[int] = []
    rows = ground.rows("train")
    signs = sign_pictures(rows, told.append)
    assert sum(told) == rows.image_count == len(signs.files) == len(signs.pixels) == len(signs.hashes)
    found = match_pictures(rows, signs, rows, signs)
    assert found.near.tolist() == list(range(rows.image_count))
