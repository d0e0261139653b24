"""The picture in an encoded image: the one decoding that validation, thumbnails and image towers share.

- The first frame of an animation is the image.
- EXIF orientation is applied: width and height are those of the upright picture.
- Transparency is laid over white.
- 16-bit grey is scaled to 8 bits; CMYK, palettes, grey and bilevel become RGB by Pillow's conversion. Colour profiles
  are ignored, as image towers are trained without them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile

from bcls_core.errors import CorpusError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The formats that are read. Others (EPS among them, which would start a program) are not even tried."""

UNREADABLE = (OSError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises of bytes that are no picture."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255, 255)
_pillow_settings = threading.Lock()


def load_rgb(data: bytes) -> Image.Image:
    """The upright RGB picture in encoded bytes that `inspect_image` has accepted.

    Raises:
        PIL.Image.DecompressionBombError: more pixels than Pillow itself allows (`Image.MAX_IMAGE_PIXELS`, twice).
    """
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        return upright_rgb(image)


def load_all(images: Sequence[bytes], names: Sequence[str]) -> list[Image.Image]:
    """Upright RGB pictures of encoded images of a corpus.

    Args:
        names: image ids.
    Raises:
        CorpusError: one cannot be decoded; names it.
    """
    pictures = []
    for image, name in zip(images, names, strict=True):
        try:
            pictures.append(load_rgb(image))
        except UNREADABLE as error:
            raise CorpusError(
                f"image {name!r} cannot be decoded: {error}\n  It could be when it was ingested: run `bcls artifacts "
                "verify corpus`, and ingest again."
            ) from error
    return pictures


def upright_rgb(image: Image.Image) -> Image.Image:
    """The first frame of an opened image, decoded in full, upright, as RGB."""
    image.load()
    rotation = _UPRIGHT.get(_orientation(image))
    rgb = _to_rgb(image)
    return rgb if rotation is None else rgb.transpose(rotation)


@contextmanager
def strict_pillow(max_pixels: int) -> Iterator[None]:
    """Pillow that refuses truncated files and sizes beyond twice `max_pixels`, whatever other libraries told it."""
    with _pillow_settings, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damage that the reject reasons report
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF raises whatever its parser stumbles over; the picture itself is whole
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image, dtype=np.int64), 0, 65_535)
        return Image.fromarray(((values * 255 + 32_767) // 65_535).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture).convert("RGB")
    return image.convert("RGB")
