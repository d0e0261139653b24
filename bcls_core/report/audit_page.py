"""An audit as one HTML file with its pictures and figures in it; every text on it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from bcls_core.audit import Audit, Leak, Match, MeasureFindings
from bcls_core.audit.findings import image_id
from bcls_core.report.search_page import thumbnail
from bcls_core.report.spread_figure import spread_figure

_SAMPLES = (
    ("random", "random, different images"),
    ("same_image", "of one image"),
    ("own_label", "best other caption of the own image"),
    ("nearest", "nearest, other images"),
)
_DRAWN = ("random", "same_image", "nearest")
_HOW = {"file": "same file", "pixels": "same pixels", "equal": "equal"}


@dataclass(frozen=True)
class Side:
    """One half of an example."""

    split: str
    image_id: str
    caption: str | None
    thumbnail: str | None


@dataclass(frozen=True)
class Example:
    """Two captions or two images, and why they stand side by side."""

    left: Side
    right: Side
    why: str


class _Examples:
    """Texts and thumbnails of what is shown, and of nothing else."""

    def __init__(self, audit: Audit) -> None:
        self._rows = audit.rows
        self._places = {split: np.argsort(rows.caption_ids, kind="stable") for split, rows in audit.rows.items()}
        self._thumbnail = lru_cache(maxsize=None)(self._make_thumbnail)

    def of_images(self, leak: Leak) -> list[Example]:
        return [
            Example(self._image(leak.into, match.row), self._image(leak.source, match.other), _why(match))
            for match in leak.images.worst
        ]

    def of_captions(self, leak: Leak) -> list[Example]:
        return [
            Example(self._caption(leak.into, match.row), self._caption(leak.source, match.other), _why(match))
            for match in leak.captions.worst
        ]

    def of_false_negatives(self, split: str, pairs: Iterable[tuple[int, int, float]]) -> list[Example]:
        return [
            Example(
                self._caption(split, self._row(split, caption)),
                self._caption(split, self._row(split, other)),
                f"{label:.3f}",
            )
            for caption, other, label in pairs
        ]

    def _row(self, split: str, caption_id: int) -> int:
        places = self._places[split]
        return int(places[np.searchsorted(self._rows[split].caption_ids, caption_id, sorter=places)])

    def _caption(self, split: str, row: int) -> Side:
        rows = self._rows[split]
        side = self._image(split, int(rows.caption_image[row]))
        return Side(side.split, side.image_id, rows.captions([row])[0], side.thumbnail)

    def _image(self, split: str, row: int) -> Side:
        rows = self._rows[split]
        return Side(split, image_id(rows, row), None, self._thumbnail(split, row) if rows.has_images else None)

    def _make_thumbnail(self, split: str, row: int) -> str:
        return thumbnail(self._rows[split].images([row])[0])


def render_audit_page(audit: Audit, *, title: str, corpus: str, labels: str | None, notes: Sequence[str] = ()) -> str:
    """The page as HTML; needs nothing beside itself.

    Args:
        title: of the recipe or the dataset.
        corpus, labels: versions; None if there was no label set.
        notes: what could not be audited, and why.
    """
    environment = Environment(
        loader=PackageLoader("bcls_core.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["share"] = share
    environment.filters["amount"] = lambda number: f"{number:,}"
    return environment.get_template("audit.html").render(
        audit=audit,
        title=title,
        corpus=corpus,
        labels=labels,
        notes=notes,
        examples=_Examples(audit),
        has_images=all(rows.has_images for rows in audit.rows.values()),
        figure=_figure,
        percentiles=_percentiles,
    )


def share(part: int, total: int) -> str:
    """A share as people read it: `2.9 %`; something is never shown as nothing."""
    if not total:
        return "–"
    if 0 < part * 1000 < total:
        return "< 0.1 %"
    return f"{100 * part / total:.1f} %"


def _figure(found: MeasureFindings) -> str:
    names = dict(_SAMPLES)
    marks = {"near duplicate from": found.near, "likely false negative from": found.false_negative}
    return spread_figure(
        {names[name]: getattr(found.spread, name) for name in _DRAWN},
        {name: value for name, value in marks.items() if value is not None},
    )


def _percentiles(found: MeasureFindings) -> list[tuple[str, int, dict[str, float]]]:
    there = found.spread.percentiles()
    return [(text, len(getattr(found.spread, name)), there[name]) for name, text in _SAMPLES if name in there]


def _why(match: Match) -> str:
    if match.how in _HOW:
        return _HOW[match.how]
    if match.how == "hash":
        return f"{match.value:.0f} of 256 bits differ"
    return f"{match.how} {match.value:.3f}"
