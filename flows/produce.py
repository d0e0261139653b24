"""The one way an artefact is made: nothing to do if published, else compute into a draft, commit, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bcls_core.errors import StalePublicationError
from bcls_core.store import Artifact, Draft, fingerprint
from flows.context import Context

log = logging.getLogger(__name__)

_RACES = 20


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
    context: Context,
    kind: str,
    determinants: Mapping[str, Any],
    compute: Callable[[Draft], Artifact],
    *,
    layout: Mapping[str, Any] | None = None,
) -> Produced:
    """Returns the published artefact that `determinants` fix, computing it only where no earlier attempt did.

    Args:
        compute: fills the draft and commits it; may find pieces of a killed attempt in it.
        layout: how the work is cut where that is no part of the fingerprint; another cut starts over.
    Raises:
        LockHeldError: another process is making the same version.
        StalePublicationError: the recipe moved on meanwhile.
    """
    store, version = context.store, version_of(determinants)
    published = {info.version for info in store.list(kind)}
    if version in published:
        return Produced(store.resolve(kind, version), was_there=True)
    started_after = store.sequence(kind)
    with store.lease(kind, version):
        artifact = store.find(kind, version) or compute(store.draft(kind, version, layout=layout))
        _publish(context, artifact, started_after)
    log.info("published %s %s", kind, version)
    return Produced(artifact, was_there=False)


def _publish(context: Context, artifact: Artifact, started_after: int) -> None:
    """Makes the artefact current, unless a successor of the same recipe was published while this job was at work.

    Other recipes publish into the same sequence; they are no reason to throw hours of work away.
    """
    store = context.store
    for _ in range(_RACES):
        sequence = store.sequence(artifact.kind)
        for other in store.publications(artifact.kind):
            if other.sequence > started_after and other.version != artifact.version:
                recipe = store.resolve(artifact.kind, other.version).manifest.statistics.get("recipe")
                if recipe == context.name:
                    raise StalePublicationError(
                        f"{artifact.url} is not made current: version {other.version} of recipe {recipe} was published "
                        f"while this job was at work. To prefer this one: "
                        f"bcls artifacts rollback {artifact.kind} {artifact.version} --root {context.root}"
                    )
        try:
            store.publish(artifact, expected=sequence)
        except StalePublicationError:
            continue
        return
    raise StalePublicationError(f"{artifact.url}: lost {_RACES} races for the next publication. Run the job again.")
