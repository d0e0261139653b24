"""Why a record cannot be used: one closed list of reasons, the same words in the table, the summary and the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from bcls_core.data.schema import REJECTS

IMAGES_SOURCE = "images"
CAPTIONS_SOURCE = "captions"


class Reason(StrEnum):
    """Values are what stands in `rejects.reason`."""

    # the record
    INVALID_FILE_NAME = "invalid file name"
    DUPLICATE_IMAGE_ID = "duplicate image id"
    NO_USABLE_CAPTION = "no usable caption"
    # the file
    MISSING = "missing"
    SYMLINK = "symlink"
    LEAVES_THE_FOLDER = "leaves the folder"
    UNREADABLE = "unreadable"
    EMPTY_FILE = "empty file"
    FILE_TOO_LARGE = "file too large"
    # its content
    NOT_AN_IMAGE = "not an image"
    TRUNCATED = "truncated"
    DECOMPRESSION_BOMB = "decompression bomb"
    # features instead of an image
    MISSING_FEATURES = "missing features"
    NON_FINITE_FEATURES = "non-finite features"
    # the caption
    EMPTY_CAPTION = "empty caption"
    NOT_TEXT = "caption is not text"
    INVALID_CAPTION_ID = "invalid caption id"
    DUPLICATE_CAPTION_ID = "duplicate caption id"
    IMAGE_REJECTED = "its image was rejected"


@dataclass(frozen=True)
class Reject:
    """One row of `rejects`: an input row of `source` ("images" or "captions") that is not in the corpus."""

    source: str
    key: str
    reason: Reason


def printable(text: str) -> str:
    """`text` with lone surrogates escaped, so that any key found in a file can be stored and printed."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """The table of schema `REJECTS`, in the given order."""
    rows = [(reject.source, printable(reject.key), reject.reason.value) for reject in rejects]
    columns = zip(*rows, strict=True) if rows else [(), (), ()]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=REJECTS)
