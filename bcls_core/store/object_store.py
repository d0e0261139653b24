"""Buckets and other places that write a whole object at once."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from pathlib import Path
from typing import Any, cast

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem

from bcls_core.errors import StoreError
from bcls_core.store.filesystem import Filesystem, Written


class ObjectFilesystem(Filesystem):
    """Objects under a prefix of any fsspec file system with a conditional put (memory, s3, gs, abfs, …).

    An object appears complete or not at all. There are no folders and no staging, so a writer paused for long can still
    replace an object of an uncommitted version; what it wrote is then found by its stamp.

    Raises:
        StoreError: the file system cannot create exclusively.
    """

    def __init__(self, backend: Any, root: str) -> None:
        super().__init__(backend, root)
        if not _creates_exclusively(backend):
            raise StoreError(
                f"{self.url}: the file system {type(backend).__name__} cannot put an object only if it is absent, "
                "which publication needs; use a local folder, s3://, gs:// or abfs://."
            )

    @property
    def url(self) -> str:
        return cast("str", self._backend.unstrip_protocol(self.root))

    def write(self, path: str, data: bytes, *, staging: str | None = None) -> Written:  # noqa: ARG002
        self._backend.pipe_file(self.full(path), data)
        return Written(len(data), hashlib.sha256(data).hexdigest(), self.stamp(path))

    def copy_in(self, path: str, local: Path, *, staging: str | None = None) -> Written:  # noqa: ARG002
        with local.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        self._backend.put_file(str(local), self.full(path))
        return Written(local.stat().st_size, sha256, self.stamp(path))

    def name_again(self, path: str, existing: str, data: bytes, *, staging: str | None = None) -> None:
        """None: an object has one name."""

    def put_if_absent(self, path: str, data: bytes, *, staging: str | None = None) -> bool:  # noqa: ARG002
        try:
            self._backend.pipe_file(self.full(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def stamp(self, path: str) -> str:
        self._backend.invalidate_cache()
        return str(self._backend.ukey(self.full(path)))

    def make_folder(self, path: str, *, parents: bool = True) -> None:
        """There is nothing to make: objects need no folders."""

    def set_aside(self, path: str, folder: str) -> None:  # noqa: ARG002
        self.remove_tree(path)

    def remove_file(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._backend.rm_file(self.full(path))

    def remove_tree(self, path: str) -> None:
        self._backend.invalidate_cache()
        if names := self._backend.find(self.full(path)):
            self._backend.rm(names)


def _creates_exclusively(backend: Any) -> bool:
    method = type(backend)._pipe_file if isinstance(backend, AsyncFileSystem) else type(backend).pipe_file
    # fsspec's own fallback looks first and writes then, which is no exclusive creation.
    return method is not AbstractFileSystem.pipe_file and "mode" in inspect.signature(method).parameters
