from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from bcls_core.data.images import InspectedImage, inspect_image, largest_file
from bcls_core.data.pixels import load_rgb
from bcls_core.data.rejects import Reason

Encode = Callable[..., bytes]
Noise = Callable[..., Image.Image]

PIXELS = 1_000_000


def inspect(data: bytes, resize: int | None = None, max_pixels: int = PIXELS) -> InspectedImage | Reason:
    return inspect_image(data, max_pixels=max_pixels, resize=resize)


def accepted(data: bytes, resize: int | None = None) -> InspectedImage:
    found = inspect(data, resize)
    assert isinstance(found, InspectedImage), found
    return found


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A grey PNG that claims to be `width` x `height`, with the given chunks after its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_bytes_stay_as_they_are(encode: Encode, noise: Noise, image_format: str) -> None:
    data = encode(noise(20, 10), image_format)

    assert accepted(data) == InspectedImage(data, 20, 10, hashlib.sha256(data).hexdigest())
    assert accepted(data, resize=10).data == data


def test_width_and_height_are_those_of_the_upright_picture(encode: Encode, noise: Noise) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(noise(20, 10), "JPEG", exif=exif)

    found = accepted(data)

    assert (found.width, found.height) == (10, 20)
    assert found.data == data


def test_the_shorter_side_shrinks_to_the_limit(encode: Encode, noise: Noise) -> None:
    found = accepted(encode(noise(90, 61), "JPEG"), resize=30)

    assert (found.width, found.height) == (44, 30)  # 90 * 30 / 61 = 44.3
    assert load_rgb(found.data).size == (44, 30)
    assert Image.open(io.BytesIO(found.data)).format == "JPEG"
    assert found.sha256 == hashlib.sha256(found.data).hexdigest()


def test_lossless_sources_stay_lossless(encode: Encode, noise: Noise) -> None:
    for image_format in ("PNG", "GIF", "BMP"):
        found = accepted(encode(noise(40, 40), image_format), resize=20)

        assert Image.open(io.BytesIO(found.data)).format == "PNG"
    picture = noise(40, 40).resize((20, 20), Image.Resampling.LANCZOS)
    assert np.array_equal(load_rgb(accepted(encode(noise(40, 40), "PNG"), resize=20).data), picture)


def test_a_shrunk_image_is_upright_and_says_nothing_else(encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    picture = Image.new("RGB", (80, 40), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 40, 40))  # left of what is stored is below in the upright picture

    found = accepted(encode(picture, "JPEG", exif=exif), resize=20)

    image = Image.open(io.BytesIO(found.data))
    assert image.size == (20, 40)
    assert not image.getexif()
    assert np.asarray(image.convert("L"))[:15].max() < 60
    assert np.asarray(image.convert("L"))[25:].min() > 200


def test_golden_pixels_of_a_shrunk_image(encode: Encode) -> None:
    """If this fails because shrinking changed on purpose, raise `ingest.ALGORITHM_VERSION` and pin the new digest."""
    y, x, channel = np.indices((48, 64, 3))
    picture = Image.fromarray(((7 * x + 11 * y * (channel + 1) + x * y) % 256).astype(np.uint8))

    pixels = load_rgb(accepted(encode(picture, "PNG"), resize=20).data)

    assert pixels.size == (27, 20)
    assert (
        hashlib.sha256(pixels.tobytes()).hexdigest()
        == "ae8c7a1d89d5af61f63678c13c1f05a8573f5752cc5dd668daab11406de2a08f"
    )


def test_shrinking_is_deterministic(encode: Encode, noise: Noise) -> None:
    data = encode(noise(64, 64), "JPEG")

    assert accepted(data, resize=16) == accepted(data, resize=16)


@pytest.mark.parametrize("cut", [4, 100, 400, 0.5, 0.9, -30, -2])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_files(encode: Encode, noise: Noise, image_format: str, cut: float) -> None:
    data = encode(noise(40, 40), image_format)
    end = int(cut * len(data)) if isinstance(cut, float) else cut
    if cut == 4 and image_format in ("PNG", "GIF", "WEBP"):
        end = 12  # their signatures are longer
    if image_format in ("PNG", "GIF") and cut == -2:
        end = -30  # all pixels are there before the last bytes

    assert inspect(data[:end]) is Reason.TRUNCATED


def test_truncation_is_found_whatever_other_libraries_told_pillow(
    encode: Encode, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)

    assert inspect(encode(noise(40, 40), "JPEG")[:-200]) is Reason.TRUNCATED


def test_a_flipped_byte_in_a_png_is_found(encode: Encode, noise: Noise) -> None:
    data = bytearray(encode(noise(40, 40), "PNG"))
    data[len(data) // 2] ^= 0xFF

    assert inspect(bytes(data)) is Reason.TRUNCATED


@pytest.mark.parametrize(
    "data",
    [
        b"this is a text file that was renamed to .jpg",
        b"BM is how a bitmap begins, and so does this text",
        b"<html><body>404 Not Found</body></html>",
        b"%PDF-1.7 ...",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(1_000),
        b"\xff\xd8",
        b"RIFF\x24\0\0\0WAVEfmt ",
    ],
)
def test_other_files_are_no_images(data: bytes) -> None:
    assert inspect(data) is Reason.NOT_AN_IMAGE


def test_nothing_is_an_empty_file() -> None:
    assert inspect(b"") is Reason.EMPTY_FILE


@pytest.mark.parametrize("side", [60_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    data = png(side, side, png_chunk(b"IDAT", zlib.compress(bytes(100_000))))

    tracemalloc.start()
    found = inspect(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found is Reason.DECOMPRESSION_BOMB
    assert peak < 10 * 2**20


def test_one_pixel_more_than_allowed_is_too_many(encode: Encode) -> None:
    data = encode(Image.new("L", (100, 50)), "PNG")

    assert isinstance(inspect(data, max_pixels=5_000), InspectedImage)
    assert inspect(data, max_pixels=4_999) is Reason.DECOMPRESSION_BOMB


def test_the_limit_given_counts_not_pillows_own(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("L", (100, 50)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    assert isinstance(inspect(data, max_pixels=5_000), InspectedImage)


def test_a_gif_frame_larger_than_its_screen_is_refused(encode: Encode) -> None:
    data = bytearray(encode(Image.new("P", (10, 10)), "GIF"))
    frame = data.index(b"\x2c", 13)
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)

    assert inspect(bytes(data)) is Reason.DECOMPRESSION_BOMB


def test_text_that_unpacks_to_too_much_is_refused(encode: Encode) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 5_000_000, zip=True)
    data = encode(Image.new("L", (4, 4)), "PNG", pnginfo=info)
    assert len(data) < 10_000

    assert inspect(data) is Reason.DECOMPRESSION_BOMB


def test_many_texts_that_unpack_to_too_much_are_refused(encode: Encode) -> None:
    info = PngImagePlugin.PngInfo()
    for number in range(65):
        info.add_text(f"comment {number}", "x" * 2**20, zip=True)

    assert inspect(encode(Image.new("L", (4, 4)), "PNG", pnginfo=info)) is Reason.DECOMPRESSION_BOMB


def test_pixels_without_end_are_not_unpacked(encode: Encode) -> None:
    endless = zlib.compress(bytes(30_000_000), 1)
    data = png(4, 4, png_chunk(b"IDAT", endless))

    tracemalloc.start()
    found = inspect(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert isinstance(found, InspectedImage)
    assert peak < 10 * 2**20


def test_an_image_of_the_allowed_size_fits_the_largest_file(encode: Encode, noise: Noise) -> None:
    for image_format in ("PNG", "BMP", "WEBP"):
        assert len(encode(noise(50, 50), image_format)) <= largest_file(2_500)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]), st.data())
def test_damage_anywhere_gives_an_image_or_a_reason(image_format: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, image_format)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    found = inspect(bytes(content))

    if isinstance(found, InspectedImage):
        assert load_rgb(found.data).size == (found.width, found.height)
    else:
        assert found in (Reason.NOT_AN_IMAGE, Reason.TRUNCATED, Reason.DECOMPRESSION_BOMB)
