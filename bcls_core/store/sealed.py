"""JSON documents that show when a byte of them was changed, and which bcls wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bcls_core.errors import StoreError
from bcls_core.store.canonical import canonical_json

FORMAT = 1  # of the store's documents; raised by hand when an older bcls could no longer read them


class NewerFormatError(StoreError):
    """A document was written by a newer bcls."""


def seal(document: Mapping[str, Any]) -> bytes:
    """Readable JSON of `document`, together with the format's number and a checksum over all of it.

    Raises:
        StoreError: a value is not JSON.
    """
    content = {**document, "format": FORMAT}
    content["checksum"] = hashlib.sha256(canonical_json(content)).hexdigest()
    return (json.dumps(content, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def unseal(data: bytes, where: str) -> dict[str, Any]:
    """The document that `seal` made into `data`; `where` is named in errors.

    Raises:
        NewerFormatError: the format's number is above the one of this bcls.
        StoreError: the bytes are not exactly those that were sealed.
    """
    try:
        content = json.loads(data)
    except ValueError as error:  # both undecodable bytes and broken JSON
        raise StoreError(f"{where} is damaged ({error}); restore it from a copy, or build it again.") from error
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int:
        raise StoreError(f"{where} is no document of this store: it names no format. Restore it from a copy.")
    if number > FORMAT:
        raise NewerFormatError(f"{where} has format {number}, this bcls reads up to format {FORMAT}: upgrade bcls.")
    document = {key: value for key, value in content.items() if key not in ("format", "checksum")}
    if seal(document) != data:
        raise StoreError(
            f"{where} was changed after it was written (its checksum disagrees); restore it from a copy, "
            "or build it again."
        )
    return document
