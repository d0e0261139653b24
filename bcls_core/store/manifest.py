"""What a version's folder holds: its manifest, written last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from bcls_core.errors import StoreError
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.names import MANIFEST
from bcls_core.store.sealed import FORMAT, seal, unseal

Model = TypeVar("Model", bound=BaseModel)


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(_Document):
    """One file of a version: `path` relative to its folder, `size` in bytes, `rows` of a table's part (else None)."""

    path: str
    size: int
    sha256: str
    rows: int | None = None


class TableEntry(_Document):
    """One table of a version: `columns` is name -> type, sorted by name; `digest` covers its rows in any order."""

    rows: int
    columns: dict[str, str] = Field(alias="schema")
    digest: str


class Manifest(_Document):
    """A version's contents, inputs and audit.

    `fingerprint` is all that determines the content, `parents` kind -> version of the artefacts it was made from.
    """

    kind: str
    version: str
    schema_name: str = Field(alias="schema")
    fingerprint: dict[str, JsonValue]
    parents: dict[str, str]
    tables: dict[str, TableEntry]
    files: list[FileEntry]
    statistics: dict[str, JsonValue]
    gates: dict[str, JsonValue]
    content_digest: str

    @property
    def format(self) -> int:
        """The format's number, the one of this bcls: older ones are converted when read, newer ones refused."""
        return FORMAT

    def parts(self, table: str) -> list[FileEntry]:
        """The files of a table, in the order of their numbers."""
        name = re.compile(re.escape(table) + r"/part-(\d{5,})\.parquet")
        numbered = [(int(match[1]), entry) for entry in self.files if (match := name.fullmatch(entry.path))]
        return [entry for _, entry in sorted(numbered, key=lambda pair: pair[0])]

    def other_files(self) -> dict[str, str]:
        """Path -> sha256 of the files that are no part of a table."""
        parts = {entry.path for table in self.tables for entry in self.parts(table)}
        return {entry.path: entry.sha256 for entry in self.files if entry.path not in parts}

    def to_bytes(self) -> bytes:
        """The content of `manifest.json`."""
        return seal(self.model_dump(by_alias=True))


def read_manifest(filesystem: Filesystem, kind: str, version: str) -> Manifest | None:
    """The manifest of a version, or None if that is not committed.

    Raises:
        NewerFormatError: a newer bcls wrote it.
        StoreError: it is damaged.
    """
    path = manifest_path(kind, version)
    try:
        data = filesystem.read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    where = f"{filesystem.url}/{path}"
    manifest = parse(Manifest, unseal(data, where), where)
    if (manifest.kind, manifest.version) != (kind, version):
        raise StoreError(f"{where} is the manifest of {manifest.kind}/{manifest.version}; move that folder back.")
    return manifest


def manifest_path(kind: str, version: str) -> str:
    """Where the manifest of a version lies under the root."""
    return f"{kind}/{version}/{MANIFEST}"


def parse(model: type[Model], document: Mapping[str, Any], where: str) -> Model:
    """`document` as `model`.

    Raises:
        StoreError: it is something else.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise StoreError(f"{where} is no {model.__name__.lower()} of this store: {error}") from error
