from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile

from bcls_core.data.pixels import load_rgb, strict_pillow

Encode = Callable[..., bytes]


def colours(data: bytes) -> list[tuple[int, int, int]]:
    """Pixels of the decoded picture, row by row."""
    image = load_rgb(data)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def test_transparency_lies_over_white(encode: Encode) -> None:
    rgba = Image.new("RGBA", (2, 1))
    rgba.putdata([(255, 0, 0, 255), (0, 0, 255, 51)])

    assert colours(encode(rgba, "PNG")) == [(255, 0, 0), (204, 204, 255)]


def test_a_transparent_palette_entry_lies_over_white(encode: Encode) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])

    assert colours(encode(image, "PNG", transparency=0)) == [(255, 255, 255), (200, 100, 50)]
    assert colours(encode(image, "GIF")) == [(10, 20, 30), (200, 100, 50)]


def test_16_bit_grey_is_scaled_not_cut(encode: Encode) -> None:
    grey = Image.fromarray(np.array([[0, 257, 32_896, 65_535]], np.uint16))

    assert [red for red, _, _ in colours(encode(grey, "PNG"))] == [0, 1, 128, 255]


def test_grey_and_bilevel_become_rgb(encode: Encode) -> None:
    assert colours(encode(Image.new("L", (1, 1), 77), "PNG")) == [(77, 77, 77)]
    assert colours(encode(Image.new("1", (1, 1), 1), "PNG")) == [(255, 255, 255)]


def test_cmyk_jpeg_becomes_rgb(encode: Encode) -> None:
    cyan, black = Image.new("CMYK", (16, 16), (255, 0, 0, 0)), Image.new("CMYK", (16, 16), (0, 0, 0, 255))

    assert np.abs(np.subtract(colours(encode(cyan, "JPEG")), (0, 255, 255))).max() <= 3
    assert np.abs(np.subtract(colours(encode(black, "JPEG")), (0, 0, 0))).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_gives_the_upright_picture(encode: Encode, orientation: int, image_format: str) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255  # the corner that must come back to the upper left
    # What a camera held that way stores: the inverse of the eight transformations of the EXIF standard.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation

    decoded = np.asarray(load_rgb(encode(Image.fromarray(np.ascontiguousarray(stored)), image_format, exif=exif)))

    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() <= 40  # JPEG and WebP lose a little


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_picture_as_it_is(encode: Encode) -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))

    for exif in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"):
        assert load_rgb(encode(image, "PNG", exif=exif)).size == (3, 2)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_the_image(encode: Encode, image_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    options = {"lossless": True} if image_format == "WEBP" else {}

    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)

    assert colours(data)[0] == (250, 0, 0)


def test_other_formats_are_not_even_tried(encode: Encode) -> None:
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n", encode(Image.new("RGB", (2, 2)), "TIFF")):
        with pytest.raises(Image.UnidentifiedImageError):
            load_rgb(data)


def test_strict_pillow_overrules_other_libraries_and_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)

    with strict_pillow(500):
        inside = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS

    assert inside == (False, 500)
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (True, None)


def test_48_bit_colour_is_read(encode: Encode) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = b"\0" + struct.pack(">HHH", 65_535, 0, 257 * 100)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixel)) + chunk(b"IEND", b"")

    assert colours(data) == [(255, 0, 100)]
