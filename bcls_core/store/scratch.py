"""Files that a draft needs while it is made and that never become part of it: checkpoints, intermediate features."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bcls_core.errors import StoreError
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.names import check_path


class Scratch:
    """The working files of one draft; they survive a kill and vanish when the draft is committed.

    Picklable. Each write is complete or absent; writing a path again replaces the file.
    """

    def __init__(self, filesystem: Filesystem, folder: str, staging: str) -> None:
        """
        Args:
            folder: where the files lie, relative to the filesystem's root.
            staging: the draft's folder for unfinished files.
        """
        self._filesystem = filesystem
        self._folder = folder
        self._staging = staging

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file.

        Raises:
            StoreError: the path leaves the folder, or the draft was committed or discarded.
        """
        with self._while_open(path):
            self._filesystem.write(self._full(path), data, staging=self._staging)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file that nobody wrote: of all who try, exactly one gets True.

        Raises:
            StoreError: as `write_bytes`.
        """
        with self._while_open(path):
            return self._filesystem.put_if_absent(self._full(path), data, staging=self._staging)

    def add_tree(self, path: str, local: Path) -> None:
        """Copy a folder of this machine in, with all files below it.

        Raises:
            StoreError: as `write_bytes`.
        """
        for item in sorted(local.rglob("*")):
            if item.is_file():
                target = f"{path}/{item.relative_to(local).as_posix()}"
                with self._while_open(target):
                    self._filesystem.copy_in(self._full(target), item, staging=self._staging)

    def remove(self, path: str) -> None:
        """Take a file away; one that is not there is fine."""
        self._filesystem.remove_file(self._full(path))

    def names(self) -> list[str]:
        """Sorted names of the files at the top."""
        return self._filesystem.names(self._folder)

    def local(self, path: str) -> Path | None:
        """A file where it lies on this machine's disk, to be mapped; None on other stores."""
        place = Path(self._filesystem.url)
        return place / self._full(path) if place.is_absolute() else None

    def exists(self, path: str) -> bool:
        """Whether that file was written."""
        return self._filesystem.exists(self._full(path))

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            FileNotFoundError: it was not written.
        """
        return self._filesystem.open(self._full(path))

    def copy_tree(self, path: str, local: Path) -> None:
        """Copy a folder that `add_tree` wrote to a folder of this machine."""
        for name in self._filesystem.files(self._full(path)):
            target = local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.open(f"{path}/{name}") as source, target.open("wb") as sink:
                while chunk := source.read(1 << 20):
                    sink.write(chunk)

    @contextlib.contextmanager
    def _while_open(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            where = f"{self._filesystem.url}/{self._folder}"
            raise StoreError(
                f"{where}/{path} cannot be written: the draft was committed or discarded. Run again."
            ) from error

    def _full(self, path: str) -> str:
        return f"{self._folder}/{check_path(path)}"
