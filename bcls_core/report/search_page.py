"""Search results as one HTML file with its pictures in it; every text on it is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from bcls_core.data.pixels import load_rgb

_THUMBNAIL = 220


@dataclass(frozen=True)
class SearchHit:
    """One result.

    Attributes:
        captions: the caption found, or the captions of the image found.
        image: encoded picture, or None where the corpus holds features only.
    """

    rank: int
    score: float
    image_id: str
    captions: Sequence[str]
    image: bytes | None


@dataclass(frozen=True)
class SearchPage:
    """A query and its results."""

    model: str
    corpus: str
    to: str
    text: str | None
    image: bytes | None
    hits: Sequence[SearchHit]


def render_search_page(page: SearchPage) -> str:
    """The page as HTML; needs nothing beside itself."""
    environment = Environment(
        loader=PackageLoader("bcls_core.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["thumbnail"] = thumbnail
    return environment.get_template("search.html").render(page=page)


def thumbnail(image: bytes) -> str:
    """A small JPEG of an encoded picture, as a data URI."""
    small = load_rgb(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
