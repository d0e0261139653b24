"""Reading a committed version."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from bcls_core.errors import StoreError
from bcls_core.store.filesystem import CHUNK, Filesystem
from bcls_core.store.manifest import FileEntry, Manifest, read_manifest
from bcls_core.store.names import SIDECAR
from bcls_core.store.sealed import unseal
from bcls_core.store.tables import from_parquet


class Artifact:
    """One immutable version of one kind of artefact; picklable.

    Attributes:
        manifest: what it holds and what it was made from.
    """

    def __init__(self, filesystem: Filesystem, manifest: Manifest) -> None:
        self.filesystem = filesystem
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Artifact({self.url}, content_digest={self.content_digest[:16]}…)"

    @property
    def kind(self) -> str:
        """What it is: `corpus`, `labels`, …"""
        return self.manifest.kind

    @property
    def version(self) -> str:
        """Its name among its kind, made of the fingerprint."""
        return self.manifest.version

    @property
    def content_digest(self) -> str:
        """What it says, as 64 hexadecimal digits: equal for equal rows, however they are laid out in files."""
        return self.manifest.content_digest

    @property
    def folder(self) -> str:
        """Its folder, relative to the root."""
        return f"{self.kind}/{self.version}"

    @property
    def url(self) -> str:
        """Its folder: an absolute path on disks, else with the protocol."""
        return f"{self.filesystem.url}/{self.folder}"

    @property
    def tables(self) -> list[str]:
        """Sorted names of its tables."""
        return sorted(self.manifest.tables)

    @property
    def sidecar(self) -> dict[str, Any]:
        """Who made it, when and how long it took: nothing that is part of the content; empty if it is missing.

        Raises:
            StoreError: it is damaged.
        """
        path = f"{self.folder}/{SIDECAR}"
        try:
            data = self.filesystem.read(path)
        except FileNotFoundError:
            return {}
        return unseal(data, f"{self.filesystem.url}/{path}")

    def parts(self, table: str) -> list[FileEntry]:
        """The files of a table, in order of their numbers.

        Raises:
            StoreError: there is no such table.
        """
        if table not in self.manifest.tables:
            raise StoreError(f"{self.url} has no table {table!r}; it has {', '.join(self.tables) or 'none'}.")
        return self.manifest.parts(table)

    def read(self, table: str, part: int, columns: Sequence[str] | None = None, *, checked: bool = False) -> Any:
        """One part of a table as a `pyarrow.Table`, `columns` of it in that order (all if None).

        Args:
            checked: whether the file must have the checksum of the manifest: for what becomes part of other versions.

        Raises:
            StoreError: there is no such table, part or column, or the file is missing or damaged.
        """
        parts = self.parts(table)
        if not 0 <= part < len(parts):
            raise StoreError(f"{self.url}: table {table!r} has parts 0 to {len(parts) - 1}, no part {part}.")
        path = parts[part].path
        with self.open(path) as handle:
            if not checked:
                return from_parquet(handle, f"{self.url}/{path}", columns)
            content = handle.read()
        if hashlib.sha256(content).hexdigest() != parts[part].sha256:
            raise StoreError(f"{self.url}/{path} is damaged: its checksum is another. Build the version again.")
        return from_parquet(io.BytesIO(content), f"{self.url}/{path}", columns)

    def scan(self, table: str, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """The parts of a table one after the other, as `read` gives them; one is held at a time."""
        for part in range(len(self.parts(table))):
            yield self.read(table, part, columns)

    def open(self, path: str) -> IO[bytes]:
        """Open one of the version's files for reading.

        Raises:
            StoreError: the manifest does not list it, or it is missing.
        """
        self._entries(path, exact=True)
        try:
            return self.filesystem.open(f"{self.folder}/{path}")
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.url}/{path} is missing; run `bcls artifacts verify`, or build it again."
            ) from error

    def local(self, path: str) -> Path:
        """A file or folder of the version on this machine: in place, or downloaded once to a checked cache.

        The cache is `$XDG_CACHE_HOME/bcls` (`~/.cache/bcls`).

        Raises:
            StoreError: the manifest lists no such file or folder, or what came back is not what was written.
        """
        entries = self._entries(path, exact=False)
        if Path(self.filesystem.url).is_absolute():
            place = Path(self.url, path)
            if not place.exists():
                raise StoreError(f"{place} is missing; run `bcls artifacts verify`, or build it again.")
            return place
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = home / "bcls" / f"{self.kind}-{self.version}-{self.content_digest[:16]}"
        for entry in entries:
            self._download(entry, cache / entry.path)
        return cache / path

    def _entries(self, path: str, *, exact: bool) -> list[FileEntry]:
        entries = [entry for entry in self.manifest.files if entry.path == path]
        if not exact and not entries:
            entries = [entry for entry in self.manifest.files if entry.path.startswith(f"{path.rstrip('/')}/")]
        if not entries:
            raise StoreError(f"{self.url} has no {path!r}; `bcls artifacts show` lists its files.")
        return entries

    def _download(self, entry: FileEntry, target: Path) -> None:
        if target.is_file() and target.stat().st_size == entry.size:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        digest = hashlib.sha256()
        try:
            with self.open(entry.path) as source, temporary.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
            if digest.hexdigest() != entry.sha256:
                raise StoreError(
                    f"{self.url}/{entry.path} is damaged: its sha256 is {digest.hexdigest()}, not {entry.sha256}."
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def find_artifact(filesystem: Filesystem, kind: str, version: str) -> Artifact | None:
    """The committed version of exactly that name, or None.

    Raises:
        StoreError: its manifest is damaged, or written by a newer bcls.
    """
    manifest = read_manifest(filesystem, kind, version)
    return None if manifest is None else Artifact(filesystem, manifest)
