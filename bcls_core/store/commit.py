"""The step that makes a draft a version: audit, then the manifest, last and exclusively."""

from __future__ import annotations

import logging
import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bcls_core.errors import StoreError
from bcls_core.store.artifact import Artifact, find_artifact
from bcls_core.store.canonical import as_json
from bcls_core.store.digest import content_digest, table_digest
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.manifest import Manifest, TableEntry, manifest_path, parse
from bcls_core.store.names import SIDECAR
from bcls_core.store.sealed import seal
from bcls_core.store.workspace import DraftEntry, Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Description:
    """What the committer says about a version; all of it JSON."""

    schema: str
    fingerprint: dict[str, Any]
    parents: dict[str, str]
    statistics: dict[str, Any]
    gates: dict[str, Any]
    sidecar: dict[str, Any]

    @classmethod
    def of(cls, *, schema: str, **mappings: Mapping[str, Any] | None) -> Description:
        """A description with copies of the given mappings, empty where None.

        Raises:
            StoreError: one of them is not JSON.
        """
        return cls(schema=schema, **{name: as_json(mapping or {}) for name, mapping in mappings.items()})


class Commit:
    """One attempt to commit a draft; `run` is documented at `Draft.commit`."""

    def __init__(self, filesystem: Filesystem, kind: str, version: str, description: Description) -> None:
        self._filesystem = filesystem
        self._kind = kind
        self._version = version
        self._folder = f"{kind}/{version}"
        self._description = description
        self._workspace = Workspace(filesystem, self._folder)

    def run(self) -> Artifact:
        """Audit what was written, write the manifest, remove the workspace."""
        existing = find_artifact(self._filesystem, self._kind, self._version)
        manifest = None
        if existing is None:
            try:
                closing = self._workspace.close()
                manifest = self._prepare(closing)
                path = manifest_path(self._kind, self._version)
                self._filesystem.put_if_absent(path, manifest.to_bytes(), staging=closing)
            except FileNotFoundError:
                logger.info("%s: somebody else opened or committed the draft meanwhile", self._folder)
            existing = find_artifact(self._filesystem, self._kind, self._version)
        if existing is None:
            raise StoreError(
                f"{self._filesystem.url}/{self._folder} was opened again or discarded by another process while it was "
                "being committed; let one process finish, then run again."
            )
        self._compare(existing, manifest)
        self._workspace.remove()
        return existing

    def _prepare(self, closing: str) -> Manifest:
        """Everything that the manifest rests on, done and on the disk; writing may go on if that fails."""
        try:
            entries = self._entries(closing)
            self._check_files(entries)
            manifest = self._manifest(entries)
            self._filesystem.write(f"{self._folder}/{SIDECAR}", self._sidecar(), staging=closing)
        except StoreError:
            self._workspace.open()
            raise
        return manifest

    def _entries(self, closing: str) -> list[DraftEntry]:
        """All records; files that none of them names are taken away.

        Such a file was left by a write that was killed before it was recorded. It is removed rather than reported,
        since a job must be able to finish after a kill without anybody's help, and nothing that a `write_…` returned is
        lost by it.
        """
        entries = self._workspace.entries()
        recorded = {entry.path for entry in entries}
        files = self._filesystem.files(self._folder)
        strays = [path for path in files if path not in recorded and not path.startswith("_")]
        # Whoever finished this commit in the meantime has removed the records, so what looks like a stray may be a
        # committed file: go on only if the closed workspace is still there.
        self._filesystem.make_folder(f"{closing}/strays", parents=False)
        if self._filesystem.exists(manifest_path(self._kind, self._version)):
            raise FileNotFoundError(f"{self._folder} was committed by somebody else")
        for path in strays:
            logger.warning("%s: removing %s, which no finished write left there", self._folder, path)
            self._filesystem.set_aside(f"{self._folder}/{path}", f"{closing}/strays")
        return entries

    def _check_files(self, entries: list[DraftEntry]) -> None:
        where = f"{self._filesystem.url}/{self._folder}"
        if not entries:
            raise StoreError(f"{where} is empty: nothing was written to this draft, so there is nothing to commit.")
        files = self._filesystem.files(self._folder)
        if missing := [entry.path for entry in entries if entry.path not in files]:
            raise StoreError(
                f"{where}: written but missing now: {_some(missing)}. Write them again, or discard the draft."
            )
        for entry in entries:
            path = f"{self._folder}/{entry.path}"
            # A stamp that differs is another write of the same path, whose record this one overtook, or a copied
            # folder: only then the bytes are read again.
            changed = files[entry.path] != entry.size or (
                self._filesystem.stamp(path) != entry.stamp and self._filesystem.hash(path) != entry.sha256
            )
            if changed:
                raise StoreError(
                    f"{where}/{entry.path} is not what its record says ({files[entry.path]} bytes now, {entry.size} "
                    "written): it was changed, or two processes wrote it at once. Write it again, or discard the draft."
                )

    def _manifest(self, entries: list[DraftEntry]) -> Manifest:
        parts: dict[str, list[DraftEntry]] = defaultdict(list)
        for entry in entries:
            if entry.table is not None:
                parts[entry.table].append(entry)
        tables = {name: self._table(name, parts[name]) for name in sorted(parts)}
        description = self._description
        where = f"{self._filesystem.url}/{self._folder}: what the commit says"
        return parse(
            Manifest,
            {
                "kind": self._kind,
                "version": self._version,
                "schema": description.schema,
                "fingerprint": description.fingerprint,
                "parents": description.parents,
                "tables": tables,
                "files": [entry.public() for entry in entries],
                "statistics": description.statistics,
                "gates": description.gates,
                "content_digest": self._digest(
                    tables, {entry.path: entry.sha256 for entry in entries if entry.table is None}
                ),
            },
            where,
        )

    def _table(self, name: str, parts: list[DraftEntry]) -> TableEntry:
        where = f"{self._filesystem.url}/{self._folder}: table {name!r}"
        numbers = {part.part for part in parts}
        if missing := [number for number in range(len(parts)) if number not in numbers]:
            raise StoreError(f"{where} has {len(parts)} parts but not {_some(missing)}: its parts must be 0 to n-1.")
        first, *others = sorted(parts, key=lambda part: part.part or 0)
        for other in others:
            if other.columns != first.columns:
                raise StoreError(f"{where}: part {other.part} has columns {other.columns}, part 0 {first.columns}.")
        columns = first.columns or {}
        digest = table_digest(columns, (self._workspace.rows(part) for part in parts))
        return TableEntry(rows=sum(part.rows or 0 for part in parts), schema=columns, digest=digest)

    def _compare(self, existing: Artifact, manifest: Manifest | None) -> None:
        """Refuse a version that is committed with another content than this attempt would have given it."""
        if manifest is not None:
            digest = manifest.content_digest
        else:
            # What was written before that commit is part of it, what came later was compared when it was written: only
            # what is said now can differ.
            theirs = existing.manifest
            digest = self._digest(theirs.tables, theirs.other_files())
        if digest != existing.content_digest:
            raise StoreError(
                f"{existing.url} is committed with content_digest {existing.content_digest}, this commit has {digest}: "
                "the fingerprint does not cover all that determines the content, or the work is not deterministic."
            )

    def _digest(self, tables: Mapping[str, TableEntry], files: Mapping[str, str]) -> str:
        digests = {name: table.digest for name, table in tables.items()}
        return content_digest(self._description.schema, self._description.fingerprint, digests, files)

    def _sidecar(self) -> bytes:
        made = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        return seal({**made, **self._description.sidecar})


def _some(items: Iterable[object]) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
