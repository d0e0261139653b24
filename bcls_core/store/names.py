"""Which names kinds, versions, tables and files may have, and where a table's parts lie."""

from __future__ import annotations

import re

from bcls_core.errors import StoreError

MANIFEST = "manifest.json"
SIDECAR = "sidecar.json"
PUBLICATIONS = "publications"
LEASES = "leases"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = (PUBLICATIONS, LEASES, "current")
_PART = re.compile(r"(.*/)?part-\d{5,}\.parquet")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\*?\[\]]")


def check_name(what: str, name: str) -> str:
    """`name`, if it can name a kind or a version: letters, digits, ".", "_", "-", the first a letter or digit.

    Raises:
        StoreError: it cannot.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise StoreError(
            f"{what} {name!r} cannot be stored: use letters, digits, '.', '_', '-', the first a letter or digit, "
            f"and none of {', '.join(_RESERVED)}."
        )
    return name


def check_path(path: str) -> str:
    """`path`, if it names a place inside a version's folder that callers may write to.

    Raises:
        StoreError: it is absolute, climbs out by "..", is one of the store's own files, or holds a character that some
            file systems treat as special.
    """
    parts = path.split("/")
    if _UNUSABLE.search(path):
        problem = "it holds a backslash, a control character or one of * ? [ ]"
    elif path.startswith("/"):
        problem = "it is absolute"
    elif any(part in ("", ".", "..") for part in parts):
        problem = "it has an empty, '.' or '..' part"
    elif path in (MANIFEST, SIDECAR) or path.startswith("_"):
        problem = "that name is the store's own (manifest.json, sidecar.json, and all that begins with '_')"
    else:
        return path
    raise StoreError(f"path {path!r} cannot be written: {problem}. Use a relative path such as 'truth/scenes.npz'.")


def check_file_path(path: str) -> str:
    """`path`, if a file that is no part of a table can lie there.

    Raises:
        StoreError: it leaves the folder, or is named as parts of tables are.
    """
    if _PART.fullmatch(check_path(path)):
        raise StoreError(f"path {path!r} is named like a part of a table; write it as a table, or use another name.")
    return path


def part_path(table: str, part: int) -> str:
    """Where a part of a table lies in its version's folder: `captions/part-00003.parquet`.

    Raises:
        StoreError: the table's name is no path inside the folder, or the part is negative.
    """
    if part < 0:
        raise StoreError(f"table {table!r}: part {part} is negative; parts are numbered from 0.")
    return f"{check_path(table)}/part-{part:05d}.parquet"
