"""The `_work` folder of an uncommitted version: what was written so far, and which pieces are done.

Layout: `entries/<path>.json` (one per file), `rows/<sha256>` (row digests of a table's part, named by the part's bytes,
so that they can never be taken for another's), `marks/<piece>.json`, and on disks `staging/` with unfinished files.

A commit *closes* the workspace: it takes the staging folder away, after which nobody can finish a write, and gets a
`closing-…` folder of its own. Opening the workspace again takes that folder away in turn, and with it the right to
finish the commit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections import Counter
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from pydantic import ValidationError

from bcls_core.errors import StoreError
from bcls_core.store.canonical import canonical_json
from bcls_core.store.digest import ROW_BYTES, RowDigests
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.manifest import FileEntry

logger = logging.getLogger(__name__)

_LONGEST_NAME = 180


class DraftEntry(FileEntry):
    """A file of a draft: which table and part it is (if any), its columns, and the stamp of the write that made it."""

    stamp: str
    table: str | None = None
    part: int | None = None
    columns: dict[str, str] | None = None

    def public(self) -> FileEntry:
        """What the manifest says about it."""
        return FileEntry(path=self.path, size=self.size, sha256=self.sha256, rows=self.rows)


class Workspace:
    """The records of one draft; picklable, and safe to use from several processes at once."""

    def __init__(self, filesystem: Filesystem, folder: str) -> None:
        self._filesystem = filesystem
        self._folder = folder
        self._work = f"{folder}/_work"
        self.staging = f"{self._work}/staging"

    def open(self) -> None:
        """Make it ready for writing; a commit that is under way elsewhere will fail."""
        self._filesystem.make_folder(self.staging)
        # In this order: a commit that closes after the first line takes the new staging folder away, one that closed
        # before it has a folder that the lines below find.
        for name in self._filesystem.folders(self._work):
            if name.startswith("closing-"):
                self._filesystem.remove_tree(f"{self._work}/{name}")
        self.sweep()

    def close(self) -> str:
        """Stop all writers and return the folder that the commit stages its manifest in.

        Raises:
            FileNotFoundError: the workspace is gone.
        """
        closing = f"{self._work}/closing-{uuid.uuid4().hex}"
        self._filesystem.make_folder(closing, parents=False)
        self._filesystem.set_aside(self.staging, closing)
        return closing

    def remove(self) -> None:
        """Remove all of it, the working files too; a missing one is fine."""
        if "_work" in self._filesystem.folders(self._folder):
            # Where a folder cannot vanish at once: no mark may outlive the files it speaks of.
            self._filesystem.remove_tree(f"{self._work}/marks")
            gone = f"{self._folder}/_gone-{uuid.uuid4().hex}"
            self._filesystem.make_folder(gone)
            self._filesystem.set_aside(self._work, gone)
        self.sweep()

    def sweep(self) -> None:
        """Remove what a killed `remove` left."""
        for name in self._filesystem.folders(self._folder):
            if name.startswith("_gone-"):
                self._filesystem.remove_tree(f"{self._folder}/{name}")

    def record(self, entry: DraftEntry, rows: RowDigests | None) -> None:
        """Remember a written file, and its row digests (sorted) if it is a table's part.

        Raises:
            FileNotFoundError: the workspace is closed or gone.
        """
        if rows is not None:
            self._write(f"rows/{entry.sha256}", rows.tobytes())
        self._write(f"entries/{entry.path}.json", canonical_json(entry.model_dump()))

    def forget(self, path: str) -> None:
        """Remove the record of a file."""
        self._filesystem.remove_file(f"{self._work}/entries/{path}.json")

    def entry(self, path: str) -> DraftEntry | None:
        """The record of a file, None if there is none."""
        return self._entry(f"{path}.json")

    def entries(self) -> list[DraftEntry]:
        """The records of all files, sorted by path."""
        names = self._filesystem.files(f"{self._work}/entries")
        found = [entry for name in names if (entry := self._entry(name)) is not None]
        return sorted(found, key=lambda entry: entry.path)

    def rows(self, entry: DraftEntry) -> RowDigests:
        """The sorted row digests of a table's part.

        Raises:
            StoreError: they are missing or cut short.
        """
        path = f"{self._work}/rows/{entry.sha256}"
        try:
            data = self._filesystem.read(path)
        except FileNotFoundError:
            data = b""
        if len(data) != ROW_BYTES * (entry.rows or 0):
            raise StoreError(
                f"{self._filesystem.url}/{path} holds {len(data)} bytes instead of {ROW_BYTES} for each of "
                f"{entry.rows} rows: write {entry.path} again, or remove the draft's folder and start over."
            )
        return np.frombuffer(data, f"S{ROW_BYTES}")

    def start(self, piece: str) -> None:
        """Remember that somebody begins a piece of work.

        Raises:
            FileNotFoundError: the workspace is closed or gone.
        """
        self._write(f"starts/{_file_name(piece)}.{uuid.uuid4().hex}", b"")

    def starts(self) -> dict[str, int]:
        """How often each piece was begun, sorted by piece (a very long name by its file's)."""
        names = self._filesystem.names(f"{self._work}/starts")
        return dict(sorted(Counter(unquote(name.rpartition(".")[0]) for name in names).items()))

    def mark(self, piece: str, record: dict[str, Any]) -> None:
        """Remember that a piece of work is done.

        Raises:
            FileNotFoundError: the workspace is closed or gone.
            StoreError: the record is not JSON.
        """
        self._write(f"marks/{_file_name(piece)}.json", canonical_json({"piece": piece, "record": record}))

    def marks(self) -> dict[str, dict[str, Any]]:
        """The records of all pieces done, by piece, sorted."""
        found = {}
        for name in self._filesystem.names(f"{self._work}/marks"):
            try:
                mark = json.loads(self._filesystem.read(f"{self._work}/marks/{name}"))
                found[mark["piece"]] = mark["record"]
            except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
                logger.warning(
                    "%s/%s/marks/%s is unreadable (%s): its piece will be done again",
                    self._filesystem.url,
                    self._work,
                    name,
                    error,
                )
        return dict(sorted(found.items()))

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Keep a small fact about the draft itself."""
        self._write(f"{name}.json", canonical_json(value))

    def noted(self, name: str) -> Any:
        """The fact kept under `name`, None if there is none or it is unreadable."""
        try:
            return json.loads(self._filesystem.read(f"{self._work}/{name}.json"))
        except (FileNotFoundError, ValueError):
            return None

    def _write(self, path: str, data: bytes) -> None:
        self._filesystem.write(f"{self._work}/{path}", data, staging=self.staging)

    def _entry(self, name: str) -> DraftEntry | None:
        path = f"{self._work}/entries/{name}"
        try:
            return DraftEntry.model_validate_json(self._filesystem.read(path))
        except (FileNotFoundError, IsADirectoryError):
            return None
        except ValidationError as error:
            logger.warning(
                "%s/%s is unreadable (%s): the file counts as not written", self._filesystem.url, path, error
            )
            return None


def _file_name(piece: str) -> str:
    name = quote(piece, safe="")
    if len(name) <= _LONGEST_NAME and not name.startswith("."):
        return name
    return f"{name[:_LONGEST_NAME].lstrip('.')}-{hashlib.blake2b(piece.encode(), digest_size=16).hexdigest()}"
