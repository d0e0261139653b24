"""The one way an artefact is made: nothing to do if published, else compute into a draft, commit, publish, record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bcls_core.errors import StalePublicationError
from bcls_core.store import Artifact, Draft, fingerprint
from flows.context import Context
from flows.tracking import Job

log = logging.getLogger(__name__)

_RACES = 20


@dataclass(frozen=True)
class Produced:
    """A published artefact, its MLflow run, and whether this call found it already there."""

    artifact: Artifact
    job: Job
    was_there: bool

    @property
    def state(self) -> str:
        return "already there" if self.was_there else "new"


@dataclass(frozen=True)
class Making:
    """How one kind of artefact is made.

    Attributes:
        kind: corpus, labels or training.
        flow: the flow that makes it.
        determinants: all that determines the content, and so the version.
        compute: fills the draft and commits it; may find pieces of a killed attempt in it.
        record: tells the MLflow run what the finished artefact says; derived from the artefact alone, so that a later
            attempt can do it for an earlier one.
        layout: how the work is cut where that is no part of the fingerprint; another cut starts over.
    """

    kind: str
    flow: str
    determinants: Mapping[str, Any]
    compute: Callable[[Draft, Job], Artifact]
    record: Callable[[Job, Artifact], None]
    layout: Mapping[str, Any] | None = None


def version_of(determinants: Mapping[str, Any]) -> str:
    """The version of what these inputs, settings and algorithm versions determine."""
    return fingerprint(dict(determinants))[:16]


def produce(context: Context, making: Making) -> Produced:
    """Returns the published artefact that the determinants fix, computing it only where no earlier attempt did.

    Raises:
        LockHeldError: another process is making the same version; its run is left alone.
        StalePublicationError: the recipe moved on meanwhile.
    """
    store, kind, version = context.store, making.kind, version_of(making.determinants)
    was_there = _is_published(context, kind, version)
    finished = context.tracker.find(making.flow, version) if was_there else None
    if finished is not None and finished.is_finished:
        return Produced(store.resolve(kind, version), finished, was_there=True)
    started_after = store.sequence(kind)
    with store.lease(kind, version), context.tracker.job(making.flow, version) as job:
        was_there = _is_published(context, kind, version)
        artifact = store.find(kind, version)
        if artifact is None:
            artifact = making.compute(store.draft(kind, version, layout=making.layout), job)
        if not was_there:
            _publish(context, artifact, started_after)
        if not job.is_finished:
            making.record(job, artifact)
    return Produced(artifact, job, was_there=was_there)


def _is_published(context: Context, kind: str, version: str) -> bool:
    return any(info.version == version for info in context.store.list(kind))


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
        log.info("published %s %s", artifact.kind, artifact.version)
        return
    raise StalePublicationError(f"{artifact.url}: lost {_RACES} races for the next publication. Run the job again.")
