"""Which version is current: a numbered sequence of publications, each put if absent."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from bcls_core.errors import StalePublicationError, StoreError
from bcls_core.store.artifact import Artifact, find_artifact
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.manifest import parse
from bcls_core.store.names import PUBLICATIONS
from bcls_core.store.sealed import NewerFormatError, seal, unseal

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{8,})\.json")


class Published(BaseModel):
    """A version made current, as number `sequence` of its kind; `published` is when (ISO 8601, UTC)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: str
    version: str
    content_digest: str
    sequence: int
    published: str


class Publications:
    """The publications of one kind under `<root>/<kind>/publications/`.

    The highest valid one is current. A file that is no publication of this kind, or whose version is not committed with
    that content, is skipped with a warning: a damaged file never hides the last good version.
    """

    def __init__(self, filesystem: Filesystem, kind: str) -> None:
        self._filesystem = filesystem
        self._kind = kind
        self._folder = f"{kind}/{PUBLICATIONS}"

    def current(self) -> tuple[Published, Artifact] | None:
        """The current publication and its version, None if nothing valid was published.

        Raises:
            NewerFormatError: a newer bcls wrote it.
        """
        return next(self._valid(), None)

    def sequence(self) -> int:
        """The current publication's number, 0 if there is none."""
        current = self.current()
        return 0 if current is None else current[0].sequence

    def all(self) -> list[Published]:
        """All valid publications, the current one first."""
        return [published for published, _ in self._valid()]

    def publish(self, artifact: Artifact, expected: int | None) -> Published:
        """Make a version current; see `Store.publish`."""
        current = self.current()
        if current is not None and _same(current[0], artifact):
            return current[0]
        found = 0 if current is None else current[0].sequence
        number = (found if expected is None else expected) + 1
        if found >= number:
            raise self._stale(artifact, number)
        while not self._put(artifact, number):
            valid = self._read(number)
            if valid is not None and _same(valid[0], artifact):
                return valid[0]
            if valid is not None:
                raise self._stale(artifact, number)
            number += 1  # a file that counts for nothing must not block the kind for ever
        published = self._read(number)
        if published is None:
            raise StoreError(f"{artifact.url} was removed or changed while it was published; build it again.")
        return published[0]

    def _put(self, artifact: Artifact, number: int) -> bool:
        published = Published(
            kind=self._kind,
            version=artifact.version,
            content_digest=artifact.content_digest,
            sequence=number,
            published=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return self._filesystem.put_if_absent(self._path(number), seal(published.model_dump()))

    def _valid(self) -> Iterator[tuple[Published, Artifact]]:
        matches = [_NAME.fullmatch(name) for name in self._filesystem.names(self._folder)]
        for number in sorted({int(match[1]) for match in matches if match}, reverse=True):
            found = self._read(number)
            if found is not None:
                yield found

    def _read(self, number: int) -> tuple[Published, Artifact] | None:
        where = f"{self._filesystem.url}/{self._path(number)}"
        try:
            published = parse(Published, unseal(self._filesystem.read(self._path(number)), where), where)
            if (published.kind, published.sequence) != (self._kind, number):
                raise StoreError(f"it says {published.kind}, sequence {published.sequence}")
            artifact = find_artifact(self._filesystem, self._kind, published.version)
            if artifact is None:
                raise StoreError(f"version {published.version} is not committed")
            if artifact.content_digest != published.content_digest:
                raise StoreError(f"version {published.version} has another content_digest")
        except NewerFormatError:
            raise
        except (StoreError, FileNotFoundError) as error:
            logger.warning("publication %s does not count: %s", where, error)
            return None
        return published, artifact

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"

    def _stale(self, artifact: Artifact, number: int) -> StalePublicationError:
        current = self.current()
        now = f"{current[0].version} (sequence {current[0].sequence})" if current else "nothing"
        return StalePublicationError(
            f"{artifact.url} is not made current: this job began before sequence {number}, and {now} is current now. "
            f"Run the job again, or make it current by `bcls artifacts rollback {artifact.kind} {artifact.version}`."
        )


def _same(published: Published, artifact: Artifact) -> bool:
    return (published.version, published.content_digest) == (artifact.version, artifact.content_digest)
