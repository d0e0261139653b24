"""Writing a version: file by file, from any number of processes, invisible until it is committed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from bcls_core.errors import StoreError
from bcls_core.store.artifact import Artifact, find_artifact
from bcls_core.store.commit import Commit, Description
from bcls_core.store.digest import RowDigests, columns_of, row_digests
from bcls_core.store.filesystem import Filesystem, Written
from bcls_core.store.manifest import FileEntry, manifest_path
from bcls_core.store.names import check_file_path, check_path, part_path
from bcls_core.store.scratch import Scratch
from bcls_core.store.tables import from_parquet, to_parquet
from bcls_core.store.workspace import DraftEntry, Workspace

logger = logging.getLogger(__name__)


class Draft:
    """A version being written under `<root>/<kind>/<version>/`; get one from `Store.draft`.

    Picklable: workers in other processes write through their copies at once. Each write is complete or absent and
    survives a kill. Writing a path again replaces the file. After a commit, by whomever, writing the content that was
    committed is a quiet success, anything else an error.
    """

    def __init__(self, filesystem: Filesystem, kind: str, version: str) -> None:
        self.kind = kind
        self.version = version
        self._filesystem = filesystem
        self._folder = f"{kind}/{version}"
        self._workspace = Workspace(filesystem, self._folder)
        self._shared: dict[str, str] = {}  # sha256 -> path

    @property
    def url(self) -> str:
        """Its folder: an absolute path on disks, else with the protocol."""
        return f"{self._filesystem.url}/{self._folder}"

    def begin(self, layout: Mapping[str, Any] | None = None) -> None:
        """Make the folder ready; `Store.draft` does this. See there for `layout`."""
        if self._is_committed():
            self._workspace.remove()
            return
        self._workspace.open()
        if layout is None or self._workspace.noted("layout") == layout:
            return
        if self._workspace.entries() or self._workspace.marks():
            logger.warning("%s was begun with another layout and starts over", self.url)
            self.discard()
            self._workspace.open()
        self._workspace.note("layout", dict(layout))

    def share_with(self, artifact: Artifact) -> None:
        """Take files that this copy of the draft writes from a committed version of the store where it has the same.

        On disks these are other names of its files, so they take no space; elsewhere nothing changes. Each version
        stays whole when the other is removed.
        """
        self._shared |= {entry.sha256: f"{artifact.folder}/{entry.path}" for entry in artifact.manifest.files}

    @property
    def scratch(self) -> Scratch:
        """Its working files, which never become part of the version."""
        return Scratch(self._filesystem, f"{self._folder}/_work/scratch", self._workspace.staging)

    def write_table(self, table: str, part: int, data: Any, *, row_group_size: int | None = None) -> FileEntry:
        """Write a `pyarrow.Table` as one part of a table: `<table>/part-00000.parquet`.

        Args:
            table: its name, which may be a path (`caption_embeddings/minilm`).
            part: its number; at the commit the parts of a table must be 0 … n-1.
            row_group_size: rows that are read together.

        Raises:
            StoreError: the name or a column's type cannot be stored, or the version is committed with other rows.
        """
        path = part_path(table, part)
        content = to_parquet(data, f"{self.url}/{path}", row_group_size=row_group_size)
        rows = row_digests(data)
        details = {"rows": data.num_rows, "table": table, "part": part, "columns": columns_of(data.schema)}
        return self._write(path, content, rows, details)

    def write_bytes(self, path: str, data: bytes) -> FileEntry:
        """Write a file.

        Raises:
            StoreError: the path leaves the version's folder, or the version is committed with another content.
        """
        check_file_path(path)
        return self._write(path, data)

    def add_file(self, path: str, local: Path) -> FileEntry:
        """Copy a file of this machine in.

        Raises:
            StoreError: `local` is no file, the path leaves the folder, or the version is committed with other content.
        """
        check_file_path(path)
        if not local.is_file():
            raise StoreError(f"{local} is no file, so it cannot become {path} of {self.url}.")
        return self._write(path, local)

    def add_tree(self, path: str, local: Path) -> list[FileEntry]:
        """Copy a folder of this machine in, with all files below it.

        Raises:
            StoreError: `local` is no folder or holds no file, and as `add_file`.
        """
        check_path(path)
        files = sorted(item for item in local.rglob("*") if item.is_file())
        if not files:
            raise StoreError(f"{local} is no folder with files, so it cannot become {path} of {self.url}.")
        return [self.add_file(f"{path}/{item.relative_to(local).as_posix()}", item) for item in files]

    def remove(self, path: str) -> None:
        """Take a written file out again; one that is not there is fine.

        Raises:
            StoreError: the version is committed.
        """
        check_path(path)
        if self._is_committed():
            raise StoreError(f"{self.url} is committed: {path} stays. Make another version.")
        self._workspace.forget(path)
        self._filesystem.remove_file(self._full(path))

    def exists(self, path: str) -> bool:
        """Whether that file was written."""
        committed = self._committed()
        if committed is not None:
            return any(entry.path == path for entry in committed.manifest.files)
        return self._workspace.entry(path) is not None and self._filesystem.exists(self._full(path))

    def open(self, path: str) -> IO[bytes]:
        """Open a written file for reading.

        Raises:
            StoreError: it was not written.
        """
        if not self.exists(path):
            raise StoreError(f"{self.url} has no file {path!r} yet.")
        return self._filesystem.open(self._full(path))

    def read_table(self, table: str, part: int) -> Any:
        """A written part as a `pyarrow.Table`.

        Raises:
            StoreError: it was not written, or is damaged.
        """
        path = part_path(table, part)
        with self.open(path) as handle:
            return from_parquet(handle, f"{self.url}/{path}")

    def entries(self) -> list[FileEntry]:
        """What was written so far, by anybody, sorted by path."""
        committed = self._committed()
        if committed is not None:
            return list(committed.manifest.files)
        return [entry.public() for entry in self._workspace.entries()]

    def mark(self, piece: str, record: dict[str, Any]) -> None:
        """Remember that a piece of work is done, all its files having been written; survives a kill.

        Raises:
            StoreError: the record is not JSON, or another process is committing the version.
        """
        try:
            if not self._is_committed():
                self._workspace.mark(piece, record)
        except FileNotFoundError as error:
            if not self._is_committed():
                raise self._closed(f"piece {piece!r}") from error

    def start(self, piece: str) -> None:
        """Remember that somebody begins a piece of work; what is killed and begun again counts twice."""
        with contextlib.suppress(FileNotFoundError):  # committed or discarded meanwhile, as its end will find out
            if not self._is_committed():
                self._workspace.start(piece)

    def starts(self) -> dict[str, int]:
        """How often each piece was begun, by anybody; empty again once the version is committed."""
        return self._workspace.starts()

    def marks(self) -> dict[str, dict[str, Any]]:
        """The records of the pieces done so far, by piece; empty again once the version is committed."""
        return self._workspace.marks()

    def commit(
        self,
        *,
        fingerprint: Mapping[str, Any],
        schema: str,
        parents: Mapping[str, str] | None = None,
        statistics: Mapping[str, Any] | None = None,
        gates: Mapping[str, Any] | None = None,
        sidecar: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Make the version visible, for good.

        Every table must have the parts 0 … n-1 with equal columns, and every file must be what was written. Files that
        nobody recorded (of a write that was killed) are removed. The manifest comes last and exclusively: if somebody
        else committed first, theirs stands and is returned, provided that it says the same.

        Args:
            fingerprint: all that determines the content.
            schema: the name of the tables' contract, such as `corpus/1`.
            parents: kind -> version of what it was made from.
            statistics: numbers about the content.
            gates: what the audit found.
            sidecar: who, when, how long: not part of the content.

        Raises:
            StoreError: files are missing or changed, or the version is committed with another content.
        """
        description = Description.of(
            fingerprint=fingerprint, schema=schema, parents=parents, statistics=statistics, gates=gates, sidecar=sidecar
        )
        return Commit(self._filesystem, self.kind, self.version, description).run()

    def discard(self) -> None:
        """Remove all that was written.

        Raises:
            StoreError: the version is committed.
        """
        self._workspace.remove()  # from here on nobody can commit it
        if self._is_committed():
            raise StoreError(f"{self.url} is committed and stays.")
        self._filesystem.remove_tree(self._folder)

    def _write(
        self,
        path: str,
        content: bytes | Path,
        rows: RowDigests | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> FileEntry:
        try:
            if not self._is_committed():
                written = self._put(self._full(path), content)
                entry = DraftEntry(path=path, **vars(written), **(details or {}))
                self._workspace.record(entry, rows)
                return entry.public()
        except FileNotFoundError as error:
            if not self._is_committed():
                raise self._closed(path) from error
        return self._confirm(path, _sha256_of(content), rows)

    def _put(self, path: str, content: bytes | Path) -> Written:
        if isinstance(content, Path):
            return self._filesystem.copy_in(path, content, staging=self._workspace.staging)
        same = self._shared.get(_sha256_of(content)) if self._shared else None
        if same is not None:
            written = self._filesystem.name_again(path, same, content, staging=self._workspace.staging)
            if written is not None:
                return written
        return self._filesystem.write(path, content, staging=self._workspace.staging)

    def _confirm(self, path: str, sha256: str, rows: RowDigests | None) -> FileEntry:
        """The committed entry of a path, if it has this content."""
        entries = self._committed_entries()
        committed = entries.get(path)
        if committed is not None and committed.sha256 == sha256:
            return committed
        if committed is not None and rows is not None and committed.rows == len(rows):
            with self._filesystem.open(self._full(path)) as handle:
                if np.array_equal(row_digests(from_parquet(handle, f"{self.url}/{path}")), rows):
                    return committed
        found = "no such file" if committed is None else f"sha256 {committed.sha256}"
        raise StoreError(
            f"{self.url} was committed by another process with {found} at {path}; this one made sha256 {sha256}. "
            "A committed version stays: use it, or change what the fingerprint covers."
        )

    def _committed_entries(self) -> dict[str, FileEntry]:
        committed = self._committed()
        return {} if committed is None else {entry.path: entry for entry in committed.manifest.files}

    def _committed(self) -> Artifact | None:
        return find_artifact(self._filesystem, self.kind, self.version)

    def _is_committed(self) -> bool:
        return self._filesystem.exists(manifest_path(self.kind, self.version))

    def _closed(self, what: str) -> StoreError:
        return StoreError(
            f"{what} cannot be written to {self.url}: another process is committing or has discarded it. Run again."
        )

    def _full(self, path: str) -> str:
        return f"{self._folder}/{path}"


def _sha256_of(content: bytes | Path) -> str:
    if isinstance(content, Path):
        with content.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    return hashlib.sha256(content).hexdigest()
