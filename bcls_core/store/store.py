"""A root folder or bucket with versions of artefacts: the one door to all of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from bcls_core.errors import StoreError, UnknownArtifactError
from bcls_core.store.artifact import Artifact, find_artifact
from bcls_core.store.draft import Draft
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.lease import DEFAULT_TTL, Lease
from bcls_core.store.local import LocalFilesystem
from bcls_core.store.names import LEASES, PUBLICATIONS, check_name
from bcls_core.store.object_store import ObjectFilesystem
from bcls_core.store.publications import Publications, Published
from bcls_core.store.verify import Problem, verify
from bcls_core.store.workspace import Workspace

logger = logging.getLogger(__name__)

_SEQUENCE = re.compile(r"@(\d+)")


@dataclass(frozen=True)
class ArtifactInfo:
    """One line of a listing; `sequences` are its publications, highest first, `rows` and `bytes` of all its files."""

    kind: str
    version: str
    current: bool
    content_digest: str
    sequences: tuple[int, ...]
    created: str | None
    rows: int
    bytes: int


class Store:
    """Immutable, versioned artefacts under a root; picklable.

    Args:
        root: a local folder (made when something is written), or an fsspec URL such as `s3://bucket/prefix`.

    Raises:
        StoreError: the place cannot create files exclusively.
    """

    def __init__(self, root: str | Path) -> None:
        self.filesystem = _connect(str(root))

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @property
    def url(self) -> str:
        """The root: an absolute path on disks, else with the protocol."""
        return self.filesystem.url

    def draft(self, kind: str, version: str, *, layout: Mapping[str, Any] | None = None) -> Draft:
        """Begin or continue to write a version. Call it once per job and pass the draft on: opening stops a commit.

        Args:
            layout: how the work is cut into parts and pieces, where the fingerprint does not say (JSON). A draft that
                was begun with another layout is discarded, so that parts of two cuts never mix.

        Raises:
            StoreError: the kind or version is no usable name.
        """
        draft = Draft(self.filesystem, check_name("kind", kind), check_name("version", version))
        draft.begin(layout)
        return draft

    def find(self, kind: str, version: str) -> Artifact | None:
        """The committed version of exactly that name, published or not, or None.

        Raises:
            StoreError: its manifest is damaged, or written by a newer bcls.
        """
        return find_artifact(self.filesystem, check_name("kind", kind), check_name("version", version))

    def resolve(self, kind: str, version: str = "current") -> Artifact:
        """The version somebody means.

        Args:
            version: `current`, a version's name or an unambiguous beginning of it, or `@3` for publication number 3.

        Raises:
            UnknownArtifactError: there is none, or several; the message lists what there is.
            StoreError: its manifest is damaged, or written by a newer bcls.
        """
        if version == "current":
            return self.current(kind)
        if match := _SEQUENCE.fullmatch(version):
            return self._published(kind, int(match[1]))
        versions = _versions(self.filesystem, check_name("kind", kind))
        names = (
            [version] if version in versions else [name for name in versions if version and name.startswith(version)]
        )
        found = [artifact for name in names if (artifact := find_artifact(self.filesystem, kind, name)) is not None]
        if len(found) == 1:
            return found[0]
        problem = f"fits {', '.join(artifact.version for artifact in found)}" if found else "is not there"
        raise UnknownArtifactError(f"{kind} {version!r} {problem} under {self.url}; {self._there_is(kind)}.")

    def current(self, kind: str) -> Artifact:
        """The version that was published last.

        Raises:
            UnknownArtifactError: none was.
        """
        current = Publications(self.filesystem, check_name("kind", kind)).current()
        if current is None:
            raise UnknownArtifactError(f"no {kind} is published under {self.url}; {self._there_is(kind)}.")
        return current[1]

    def sequence(self, kind: str) -> int:
        """The number of the current publication, 0 if there is none."""
        return Publications(self.filesystem, check_name("kind", kind)).sequence()

    def publications(self, kind: str) -> list[Published]:
        """All valid publications of a kind, the current one first."""
        return Publications(self.filesystem, check_name("kind", kind)).all()

    def publish(self, artifact: Artifact, *, expected: int | None) -> Published:
        """Make a version current, as number `expected` + 1; if it is current already, nothing is written.

        Args:
            expected: the sequence that was current when the job began; None: the one that is current now.

        Raises:
            StalePublicationError: somebody published another version since.
            StoreError: the version is not committed in this store with that content.
        """
        found = self.find(artifact.kind, artifact.version)
        if found is None or found.content_digest != artifact.content_digest:
            raise StoreError(f"{artifact!r} is not committed under {self.url}, so it cannot be published there.")
        Workspace(self.filesystem, found.folder).remove()  # what a killed commit left
        return Publications(self.filesystem, artifact.kind).publish(found, expected)

    def rollback(self, kind: str, version: str) -> Published:
        """Make an older version current again, by publishing it once more.

        Raises:
            UnknownArtifactError: there is no such version.
            StalePublicationError: somebody published at the same moment.
        """
        return self.publish(self.resolve(kind, version), expected=self.sequence(kind))

    def verify(self, artifact: Artifact, *, deep: bool = False) -> list[Problem]:
        """Compare every file with the manifest; see `verify.verify`."""
        return verify(artifact, deep=deep)

    def lease(self, kind: str, version: str, *, ttl: float = DEFAULT_TTL) -> Lease:
        """A lease on making that version, to be used in a `with` statement.

        Args:
            ttl: seconds of silence after which others may take it over.

        Raises (on entering):
            LockHeldError: somebody else is making it.
        """
        return Lease(self.filesystem, check_name("kind", kind), check_name("version", version), ttl)

    def _published(self, kind: str, sequence: int) -> Artifact:
        for published in self.publications(kind):
            if published.sequence == sequence and (artifact := self.find(kind, published.version)) is not None:
                return artifact
        raise UnknownArtifactError(f"{kind} has no publication {sequence} under {self.url}; {self._there_is(kind)}.")

    def _there_is(self, kind: str) -> str:
        versions = [
            f"{info.version}{' (current)' if info.current else ''}" for info in self.list(kind, unpublished=True)
        ]
        return f"there is {', '.join(versions)}" if versions else f"there is no {kind} at all"

    def list(self, kind: str | None = None, *, unpublished: bool = False) -> list[ArtifactInfo]:
        """The published versions, of one kind or all: by kind, newest publication first; damaged ones are only logged.

        Args:
            unpublished: after those, also the versions that were committed but never published.
        """
        kinds = self.filesystem.folders("") if kind is None else [check_name("kind", kind)]
        infos = [info for name in kinds for info in _listing(self.filesystem, name)]
        return [info for info in infos if info.sequences or unpublished]


def _versions(filesystem: Filesystem, kind: str) -> list[str]:
    """Names of the folders that may hold versions."""
    return [name for name in filesystem.folders(kind) if name not in (PUBLICATIONS, LEASES)]


def _listing(filesystem: Filesystem, kind: str) -> list[ArtifactInfo]:
    sequences: dict[str, list[int]] = {}
    published = Publications(filesystem, kind).all()
    for publication in published:
        sequences.setdefault(publication.version, []).append(publication.sequence)
    infos = []
    for version in _versions(filesystem, kind):
        try:
            artifact = find_artifact(filesystem, kind, version)
            created = None if artifact is None else artifact.sidecar.get("created")
        except StoreError as error:
            logger.warning("not listed: %s", error)
            continue
        if artifact is not None:
            current = bool(published) and published[0].version == version
            infos.append(_info(artifact, current, tuple(sequences.get(version, ())), created))
    return sorted(infos, key=lambda info: (-max(info.sequences, default=0), info.version))


def _info(artifact: Artifact, current: bool, sequences: tuple[int, ...], created: str | None) -> ArtifactInfo:
    return ArtifactInfo(
        kind=artifact.kind,
        version=artifact.version,
        current=current,
        content_digest=artifact.content_digest,
        sequences=sequences,
        created=created,
        rows=sum(table.rows for table in artifact.manifest.tables.values()),
        bytes=sum(entry.size for entry in artifact.manifest.files),
    )


def _connect(root: str) -> Filesystem:
    # Listings are read anew each time anyway, and a cached one would hide what another process wrote.
    if "://" not in root:
        return LocalFilesystem(LocalFileSystem(use_listings_cache=False), str(Path(root).expanduser().absolute()))
    backend, path = url_to_fs(root, use_listings_cache=False)
    return LocalFilesystem(backend, path) if isinstance(backend, LocalFileSystem) else ObjectFilesystem(backend, path)
