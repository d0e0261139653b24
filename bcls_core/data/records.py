"""From raw rows of any source to usable records: ids given out once, texts that are texts, everything else a reject."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from bcls_core.data.rejects import CAPTIONS_SOURCE, IMAGES_SOURCE, Reason, Reject

LARGEST_CAPTION_ID = 2**63 - 1
_INVISIBLE = {"Cc", "Cf", "Co", "Zs", "Zl", "Zp"}


@dataclass(frozen=True)
class CaptionRecord:
    """A usable caption."""

    caption_id: int
    caption: str


@dataclass(frozen=True)
class ImageRecord:
    """An image to read, with its usable captions in the order of their ids.

    `paths` are the places inside the image folder where it may lie; the first that exists counts.
    """

    image_id: str
    split: str
    paths: tuple[str, ...]
    captions: tuple[CaptionRecord, ...]


@dataclass
class RecordCollector:
    """Takes images in the order of their source and sorts them and their captions into `records` and `rejects`.

    Of two images with one id, or two captions with one id, the first is kept. An image left without a caption is
    rejected, and an image rejected here takes its captions along: every row added is in exactly one of the two lists.
    """

    records: list[ImageRecord] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    input_images: int = 0
    input_captions: int = 0
    _image_ids: set[str] = field(default_factory=set)
    _caption_ids: set[int] = field(default_factory=set)

    def add(
        self, image_id: str, split: str, paths: tuple[str, ...], captions: Sequence[tuple[Any, Any]], place: str
    ) -> None:
        """Adds an image with its (id, text) pairs as the source has them; `place` names an image without a name."""
        self.input_images += 1
        self.input_captions += len(captions)
        reason = self._image_problem(image_id)
        if reason is None:
            self._image_ids.add(image_id)
            accepted = self._accept(captions)
            if accepted:
                self.records.append(ImageRecord(image_id, split, paths, tuple(accepted)))
                return
            reason = Reason.NO_USABLE_CAPTION
        else:
            self.rejects += [Reject(CAPTIONS_SOURCE, _key(key), Reason.IMAGE_REJECTED) for key, _ in captions]
        self.rejects.append(Reject(IMAGES_SOURCE, image_id or place, reason))

    def _image_problem(self, image_id: str) -> Reason | None:
        if not _is_file_name(image_id):
            return Reason.INVALID_FILE_NAME
        return Reason.DUPLICATE_IMAGE_ID if image_id in self._image_ids else None

    def _accept(self, captions: Sequence[tuple[Any, Any]]) -> list[CaptionRecord]:
        accepted = []
        for caption_id, text in captions:
            reason = caption_problem(text) or self._caption_id_problem(caption_id)
            if reason is None:
                self._caption_ids.add(caption_id)
                accepted.append(CaptionRecord(caption_id, text))
            else:
                self.rejects.append(Reject(CAPTIONS_SOURCE, _key(caption_id), reason))
        return sorted(accepted, key=lambda caption: caption.caption_id)

    def _caption_id_problem(self, caption_id: Any) -> Reason | None:
        if not is_caption_id(caption_id):
            return Reason.INVALID_CAPTION_ID
        return Reason.DUPLICATE_CAPTION_ID if caption_id in self._caption_ids else None


def caption_problem(text: Any) -> Reason | None:
    """Why a caption cannot be used, None if it can: it must be a string with at least one character that shows.

    White space only is empty; other invisible characters only (controls, format marks, private use) and characters
    that UTF-8 cannot hold (lone surrogates) are no text. A usable text is kept character by character.
    """
    if not isinstance(text, str):
        return Reason.NOT_TEXT
    if not text.strip():
        return Reason.EMPTY_CAPTION
    if not is_utf8(text) or all(unicodedata.category(character) in _INVISIBLE for character in text):
        return Reason.NOT_TEXT
    return None


def is_caption_id(value: Any) -> bool:
    """Whether a value found in a file is a whole number from 0 to 2^63 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_CAPTION_ID


def is_utf8(text: str) -> bool:
    """Whether a text found in a file can be stored: JSON can spell lone surrogates, UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_file_name(name: str) -> bool:
    no_controls = all(unicodedata.category(character) != "Cc" for character in name)
    return bool(PurePosixPath(name).name) and no_controls and is_utf8(name)


def _key(caption_id: Any) -> str:
    return caption_id if isinstance(caption_id, str) else json.dumps(caption_id)
