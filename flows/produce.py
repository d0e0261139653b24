"""The one way an artefact is made: nothing to do if published, else compute into a draft, commit, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bcls_core.store import Artifact, Draft, fingerprint
from flows.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Produced:
    """A published artefact, and whether this call found it already there."""

    artifact: Artifact
    was_there: bool

    @property
    def state(self) -> str:
        return "already there" if self.was_there else "new"


def version_of(determinants: Mapping[str, Any]) -> str:
    """The version of what these inputs, settings and algorithm versions determine."""
    return fingerprint(dict(determinants))[:16]


def produce(
    context: Context, kind: str, determinants: Mapping[str, Any], compute: Callable[[Draft], Artifact]
) -> Produced:
    """Returns the published artefact that `determinants` fix, computing it only where no earlier attempt did.

    Args:
        compute: fills the draft and commits it; may find pieces of a killed attempt in it.
    Raises:
        LockHeldError: another process is making the same version.
    """
    store, version = context.store, version_of(determinants)
    published = {info.version for info in store.list(kind)}
    if version in published:
        return Produced(store.resolve(kind, version), was_there=True)
    with store.lease(kind, version):
        artifact = store.find(kind, version) or compute(store.draft(kind, version))
        store.publish(artifact, expected=None)
    log.info("published %s %s", kind, version)
    return Produced(artifact, was_there=False)
