"""Validation of one encoded image, without ever decoding more than was allowed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from PIL import Image

from bcls_core.data.pixels import FORMATS, strict_pillow, upright_rgb
from bcls_core.data.rejects import Reason

_BYTES_PER_PIXEL = 8  # more than any of the formats needs, uncompressed
_ROOM_FOR_METADATA = 2**20
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_LOSSLESS = {"PNG", "GIF", "BMP"}


@dataclass(frozen=True)
class InspectedImage:
    """An image that can be stored.

    Attributes:
        data: encoded bytes as they go into the corpus.
        width, height: pixels of the upright picture.
        sha256: of `data`, hex.
    """

    data: bytes
    width: int
    height: int
    sha256: str


def largest_file(max_pixels: int) -> int:
    """Bytes beyond which a file cannot be an honest image of at most `max_pixels`."""
    return max_pixels * _BYTES_PER_PIXEL + _ROOM_FOR_METADATA


def inspect_image(data: bytes, *, max_pixels: int, resize: int | None) -> InspectedImage | Reason:
    """Checks an image by decoding it in full, and shrinks it if asked to.

    The size in the header is checked before anything is decoded. Bytes stay as they are, EXIF included, unless the
    shorter side of the upright picture exceeds `resize`: then it is shrunk to that (Lanczos) and encoded anew, upright,
    as PNG where the source is lossless, else as JPEG of quality 90.

    Args:
        data: the file's bytes.
        max_pixels: width x height of the largest image to decode.
        resize: longest allowed shorter side in pixels, None to keep every size.
    Returns:
        The image, or the reason why it cannot be used: empty file, not an image (none of `FORMATS`), truncated (begins
        like one and breaks before its last pixel), decompression bomb (too many pixels, or metadata that unpacks to
        too much).
    """
    if not data:
        return Reason.EMPTY_FILE
    with strict_pillow(max_pixels):
        decoded = _decode(data, max_pixels)
    return decoded if isinstance(decoded, Reason) else _stored(data, *decoded, resize)


def _decode(data: bytes, max_pixels: int) -> tuple[str, Image.Image] | Reason:
    """Format and upright RGB picture, or what is wrong."""
    # A decoder fed hostile bytes may raise anything, and each of it means that the image is unusable.
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except Exception as error:
        damage = Reason.TRUNCATED if _begins_like_an_image(data) else Reason.NOT_AN_IMAGE
        return Reason.DECOMPRESSION_BOMB if _is_bomb(error) else damage
    with image:
        if image.width * image.height > max_pixels:
            return Reason.DECOMPRESSION_BOMB
        try:
            return image.format or "", upright_rgb(image)
        except MemoryError:
            raise
        except Exception as error:
            return Reason.DECOMPRESSION_BOMB if _is_bomb(error) else Reason.TRUNCATED


def _stored(data: bytes, image_format: str, picture: Image.Image, resize: int | None) -> InspectedImage:
    shorter = min(picture.size)
    if resize is not None and shorter > resize:
        picture = picture.resize(
            (round(picture.width * resize / shorter), round(picture.height * resize / shorter)),
            Image.Resampling.LANCZOS,
        )
        data = _encode(picture, "PNG" if image_format in _LOSSLESS else "JPEG")
    return InspectedImage(data, picture.width, picture.height, sha256(data).hexdigest())


def _encode(picture: Image.Image, image_format: str) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, image_format, **({"quality": 90} if image_format == "JPEG" else {}))
    return buffer.getvalue()


def _is_bomb(error: Exception) -> bool:
    # Pillow limits what a PNG's compressed text may unpack to as well, and says so in a plain ValueError.
    about_text = isinstance(error, ValueError) and ("PngImagePlugin" in str(error) or "text chunks" in str(error))
    return about_text or isinstance(error, Image.DecompressionBombError)


def _begins_like_an_image(data: bytes) -> bool:
    return data.startswith(_MAGIC) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")
