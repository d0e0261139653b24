"""Is a committed version still what was written?"""

from __future__ import annotations

from dataclasses import dataclass

from bcls_core.errors import StoreError
from bcls_core.store.artifact import Artifact
from bcls_core.store.digest import RowDigests, content_digest, row_digests, table_digest
from bcls_core.store.manifest import read_manifest
from bcls_core.store.names import MANIFEST, SIDECAR
from bcls_core.store.tables import from_parquet


@dataclass(frozen=True)
class Problem:
    """Something wrong with a version.

    `path` is relative to its folder. `what` is one word: `missing`, `size`, `sha256` (other bytes of the same size),
    `extra` (a file the manifest does not list), `manifest`, `sidecar`, `digest` (rows disagree with the manifest).
    """

    path: str
    what: str
    detail: str


def verify(artifact: Artifact, *, deep: bool = False) -> list[Problem]:
    """Read every file again and compare it with the manifest; an empty list means all is well.

    Args:
        deep: also decode every table and compute its digest from the rows.
    """
    problems = [*_records(artifact), *_files(artifact)]
    return [*problems, *_tables(artifact)] if deep else problems


def _records(artifact: Artifact) -> list[Problem]:
    problems = []
    manifest = artifact.manifest
    try:
        found = read_manifest(artifact.filesystem, artifact.kind, artifact.version)
        if found is None:
            problems.append(Problem(MANIFEST, "missing", "the version counts as not committed"))
        elif found != manifest:
            problems.append(Problem(MANIFEST, "manifest", "it is another one than this artefact was opened with"))
    except StoreError as error:
        problems.append(Problem(MANIFEST, "manifest", str(error)))
    digests = {name: table.digest for name, table in manifest.tables.items()}
    digest = content_digest(manifest.schema_name, manifest.fingerprint, digests, manifest.other_files())
    if digest != manifest.content_digest:
        problems.append(
            Problem(MANIFEST, "digest", f"content_digest is {manifest.content_digest}, its fields give {digest}")
        )
    try:
        _ = artifact.sidecar
    except StoreError as error:
        problems.append(Problem(SIDECAR, "sidecar", str(error)))
    return problems


def _files(artifact: Artifact) -> list[Problem]:
    problems = []
    found = artifact.filesystem.files(artifact.folder)
    for entry in artifact.manifest.files:
        size = found.pop(entry.path, None)
        if size is None:
            problems.append(Problem(entry.path, "missing", f"{entry.size} bytes expected"))
        elif size != entry.size:
            problems.append(Problem(entry.path, "size", f"{size} bytes instead of {entry.size}"))
        elif (sha256 := artifact.filesystem.hash(f"{artifact.folder}/{entry.path}")) != entry.sha256:
            problems.append(Problem(entry.path, "sha256", f"{sha256} instead of {entry.sha256}"))
    # What begins with "_" is the remainder of a commit that was killed after its last step.
    extra = [path for path in found if path not in (MANIFEST, SIDECAR) and not path.startswith("_")]
    return problems + [Problem(path, "extra", f"{found[path]} bytes that the manifest does not list") for path in extra]


def _tables(artifact: Artifact) -> list[Problem]:
    problems = []
    for name in artifact.tables:
        table, paths = artifact.manifest.tables[name], [entry.path for entry in artifact.parts(name)]
        try:
            digest = table_digest(table.columns, (_part_digests(artifact, path) for path in paths))
        except StoreError as error:
            problems.append(Problem(name, "digest", str(error)))
            continue
        if digest != table.digest:
            problems.append(Problem(name, "digest", f"the rows give {digest} instead of {table.digest}"))
    return problems


def _part_digests(artifact: Artifact, path: str) -> RowDigests:
    with artifact.open(path) as handle:
        return row_digests(from_parquet(handle, f"{artifact.url}/{path}"))
