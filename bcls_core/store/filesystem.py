"""What the store asks of a place to keep files, whatever that place is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

CHUNK = 8 * 1024 * 1024


@dataclass(frozen=True)
class Written:
    """A file as it was written: `size` in bytes, `sha256` in hexadecimal.

    `stamp` names this very write of the file: another write of the same path has another one.
    """

    size: int
    sha256: str
    stamp: str


class Filesystem(ABC):
    """Files below one root, read through fsspec; how they are written durably is each subclass's own matter.

    Every path is relative to the root. Picklable, so that the same place can be used from several processes.
    """

    def __init__(self, backend: Any, root: str) -> None:
        self._backend = backend
        self.root = root.rstrip("/")

    @property
    @abstractmethod
    def url(self) -> str:
        """The root as people name it: an absolute path on disks, else with its protocol."""

    @abstractmethod
    def write(self, path: str, data: bytes, *, staging: str | None = None) -> Written:
        """Write or replace a file: readers see the old content or all of the new one, also after a power cut.

        `staging` is a folder for the unfinished file on disks (the target's own folder if None); while it does not
        exist, nothing is written.

        Raises:
            FileNotFoundError: `staging` does not exist (any more).
        """

    @abstractmethod
    def copy_in(self, path: str, local: Path, *, staging: str | None = None) -> Written:
        """`write` with the content of a local file, in constant memory."""

    @abstractmethod
    def name_again(self, path: str, existing: str, data: bytes, *, staging: str | None = None) -> Written | None:
        """`write` of what a file that nobody changes holds already, by giving that file one more name.

        None, with nothing done, where a file cannot have two names or `existing` does not hold `data`.
        """

    @abstractmethod
    def put_if_absent(self, path: str, data: bytes, *, staging: str | None = None) -> bool:
        """Put if absent: of all who try, exactly one gets True, and its content is there completely or not at all.

        Raises:
            FileNotFoundError: `staging` does not exist (any more).
        """

    @abstractmethod
    def stamp(self, path: str) -> str:
        """The stamp that `write` returned for what lies at `path` now.

        Raises:
            FileNotFoundError: nothing lies there.
        """

    @abstractmethod
    def make_folder(self, path: str, *, parents: bool = True) -> None:
        """Make a folder where folders exist at all.

        Raises:
            FileNotFoundError: its parent is missing, and `parents` is False.
        """

    @abstractmethod
    def set_aside(self, path: str, folder: str) -> None:
        """Take a file or folder out of sight, at once where the place can do that, by moving it into `folder`.

        What is missing already is fine.

        Raises:
            FileNotFoundError: `folder` does not exist (any more).
        """

    @abstractmethod
    def remove_file(self, path: str) -> None:
        """Remove a file; a missing one is fine."""

    @abstractmethod
    def remove_tree(self, path: str) -> None:
        """Remove a folder and all below it; a missing one is fine."""

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            FileNotFoundError: it does not exist.
        """
        return cast("IO[bytes]", self._backend.open(self.full(path), "rb"))

    def read(self, path: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: it does not exist.
        """
        return cast("bytes", self._backend.cat_file(self.full(path)))

    def hash(self, path: str) -> str:
        """The sha256 of a file's bytes, in constant memory.

        Raises:
            FileNotFoundError: it does not exist.
        """
        digest = hashlib.sha256()
        with self.open(path) as handle:
            while chunk := handle.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there now."""
        self._backend.invalidate_cache()
        return bool(self._backend.exists(self.full(path)))

    def files(self, path: str) -> dict[str, int]:
        """Size in bytes of every file below a folder, by path relative to that folder; none if it does not exist."""
        self._backend.invalidate_cache()
        top = self.full(path)
        found = self._backend.find(top, detail=True)
        return {name[len(top) + 1 :]: int(info["size"]) for name, info in sorted(found.items())}

    def names(self, path: str) -> list[str]:
        """Sorted names of the files right in a folder; none if it does not exist."""
        return self._listing(path, "file")

    def folders(self, path: str) -> list[str]:
        """Sorted names of the folders right in a folder; none if it does not exist."""
        return self._listing(path, "directory")

    def full(self, path: str) -> str:
        """`path` as the backend names it."""
        return f"{self.root}/{path}" if path else self.root

    def _listing(self, path: str, kind: str) -> list[str]:
        self._backend.invalidate_cache()
        try:
            entries = self._backend.ls(self.full(path), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == kind)
