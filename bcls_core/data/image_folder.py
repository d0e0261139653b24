"""Reading a file by a name that an annotations file gave: never outside the image folder, never through a link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcls_core.data.records import is_utf8
from bcls_core.data.rejects import Reason
from bcls_core.errors import CorpusError

# What is wrong with the file itself. Anything else (a full table of open files, a disk or network that fails) is the
# machine's trouble: it is raised, because a reject would enter a corpus that the next run would make differently.
_OF_THE_FILE = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EISDIR}


def read_inside(folder: Path, paths: tuple[str, ...], *, max_bytes: int) -> bytes | Reason:
    """The bytes of the first of `paths` (relative to `folder`) that exists, or why there are none.

    Every part of a path is opened relative to the folder before it and without following links, so no link, "..", or
    race with somebody who moves folders leads out of `folder`, which itself may be a link.

    Raises:
        CorpusError: `folder` cannot be opened.
        OSError: the machine, not the file, is in trouble.
    """
    try:
        with _opened(folder, os.O_RDONLY | os.O_DIRECTORY) as handle:
            found = (_read_one(handle, path, max_bytes) for path in paths)
            return next((content for content in found if content is not Reason.MISSING), Reason.MISSING)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise CorpusError(
            f"{folder}: the image folder cannot be opened ({error.strerror}). Check ingest.images."
        ) from error


def _read_one(folder: int, path: str, max_bytes: int) -> bytes | Reason:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        return Reason.LEAVES_THE_FOLDER
    if not parts or "\0" in path or not is_utf8(path):
        return Reason.INVALID_FILE_NAME
    return _read_below(folder, parts, max_bytes)


def _read_below(folder: int, parts: list[str], max_bytes: int) -> bytes | Reason:
    name, rest = parts[0], parts[1:]
    kind = os.O_DIRECTORY if rest else os.O_NONBLOCK  # O_NONBLOCK: opening a named pipe must not wait for its writer
    try:
        with _opened(name, os.O_RDONLY | os.O_NOFOLLOW | kind, folder) as handle:
            return _read_below(handle, rest, max_bytes) if rest else _read_file(handle, max_bytes)
    except OSError as error:
        if _is_link(name, folder):
            return Reason.SYMLINK
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return Reason.MISSING
        if error.errno in _OF_THE_FILE:
            return Reason.UNREADABLE
        raise


def _read_file(handle: int, max_bytes: int) -> bytes | Reason:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        return Reason.UNREADABLE
    if status.st_size == 0:
        return Reason.EMPTY_FILE
    if status.st_size > max_bytes:
        return Reason.FILE_TOO_LARGE
    with os.fdopen(handle, "rb", closefd=False) as file:
        return file.read(max_bytes)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False  # gone or unreadable: the error of the opening says what it is


@contextmanager
def _opened(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)
