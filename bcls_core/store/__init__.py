"""Immutable versioned artefacts: write, commit, publish, resolve, verify, roll back.

A version is written as a `Draft` (file by file, from any number of processes, safe to kill), becomes visible by its
manifest, which comes last, and current by a publication, which is put if absent. See `Store`.
"""

from __future__ import annotations

from bcls_core.store.artifact import Artifact
from bcls_core.store.canonical import fingerprint
from bcls_core.store.draft import Draft
from bcls_core.store.lease import Lease
from bcls_core.store.manifest import FileEntry, Manifest, TableEntry
from bcls_core.store.names import part_path
from bcls_core.store.publications import Published
from bcls_core.store.sealed import FORMAT, NewerFormatError
from bcls_core.store.store import ArtifactInfo, Store
from bcls_core.store.verify import Problem

__all__ = [
    "FORMAT",
    "Artifact",
    "ArtifactInfo",
    "Draft",
    "FileEntry",
    "Lease",
    "Manifest",
    "NewerFormatError",
    "Problem",
    "Published",
    "Store",
    "TableEntry",
    "fingerprint",
    "part_path",
]
