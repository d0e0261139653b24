"""A lease on the making of one version, so that two schedulers do not do the same work.

Leases only save work: nothing becomes wrong if two holders overlap.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict, ValidationError

from bcls_core.errors import LockHeldError
from bcls_core.store.filesystem import Filesystem
from bcls_core.store.names import LEASES

logger = logging.getLogger(__name__)

DEFAULT_TTL = 60.0
_NAME = re.compile(r"(\d{8,})\.json")


class Holder(BaseModel):
    """Who holds a lease: `machine` tells hosts, reboots and containers apart; `heartbeat` and `ttl` in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    machine: str
    pid: int
    nonce: str
    ttl: float
    heartbeat: float
    released: bool = False

    def is_live(self, now: float) -> bool:
        """Whether it still counts at `now` (Unix time)."""
        if self.released or now - self.heartbeat > self.ttl:
            return False
        return self.machine != _machine() or _is_running(self.pid)


class Lease:
    """`with store.lease(kind, version):` — held inside, given back at the end, kept alive by a thread.

    Holders are numbered files `<root>/<kind>/leases/<version>/<number>.json`, each put if absent and written by its
    owner only; the highest number counts. So taking over a stale lease is one exclusive creation, and a holder that was
    paused for longer than `ttl` finds out instead of overwriting its successor.
    """

    def __init__(self, filesystem: Filesystem, kind: str, version: str, ttl: float = DEFAULT_TTL) -> None:
        self._filesystem = filesystem
        self._what = f"{kind}/{version}"
        self._folder = f"{kind}/{LEASES}/{version}"
        self._nonce = uuid.uuid4().hex
        self._ttl = ttl
        self._number = 0
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether somebody took the lease over since, because no heartbeat was seen for `ttl` seconds."""
        return self._lost.is_set()

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            LockHeldError: somebody has it; the message names host, process and the heartbeat's age.
        """
        number = max(self._numbers(), default=0)
        holder = self._read(number) if number else None
        if holder is not None and holder.is_live(time.time()):
            raise self._held(holder)
        if holder is not None and not holder.released:
            logger.warning("taking over the lease on %s from process %d on %s", self._what, holder.pid, holder.host)
        if not self._filesystem.put_if_absent(self._path(number + 1), self._content()):
            raise self._held(self._read(number + 1))
        self._number = number + 1
        if not self._is_mine():  # others came and went since the first look, and their numbers are gone
            self._filesystem.remove_file(self._path(self._number))
            raise self._held(self._read(max(self._numbers(), default=0)))
        for old in self._numbers():
            if old < self._number:
                self._filesystem.remove_file(self._path(old))
        self._thread = threading.Thread(target=self._beat, name=f"lease {self._what}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; a lost one is left to its new holder."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not self.lost and self._is_mine():
            self._filesystem.write(self._path(self._number), self._content(released=True))

    def _beat(self) -> None:
        while not self._stop.wait(self._ttl / 4):
            try:
                if not self._is_mine():
                    self._lost.set()
                    logger.warning("the lease on %s was taken over: no heartbeat for %g s", self._what, self._ttl)
                    return
                self._filesystem.write(self._path(self._number), self._content())
            except OSError as error:
                logger.warning("no heartbeat for the lease on %s (%s); trying again", self._what, error)

    def _is_mine(self) -> bool:
        return max(self._numbers(), default=0) == self._number

    def _numbers(self) -> list[int]:
        matches = [_NAME.fullmatch(name) for name in self._filesystem.names(self._folder)]
        return [int(match[1]) for match in matches if match]

    def _read(self, number: int) -> Holder | None:
        try:
            return Holder.model_validate_json(self._filesystem.read(self._path(number)))
        except (FileNotFoundError, ValidationError) as error:
            logger.warning("lease %s is unreadable and does not count (%s)", self._path(number), error)
            return None

    def _content(self, *, released: bool = False) -> bytes:
        holder = Holder(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            nonce=self._nonce,
            ttl=self._ttl,
            heartbeat=time.time(),
            released=released,
        )
        return json.dumps(holder.model_dump(), indent=1).encode()

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.json"

    def _held(self, holder: Holder | None) -> LockHeldError:
        if holder is None:
            return LockHeldError(f"{self._what} was taken by another process just now; try again later.")
        return LockHeldError(
            f"{self._what} is being made by process {holder.pid} on {holder.host}, last heard of "
            f"{max(0.0, time.time() - holder.heartbeat):.0f} s ago; wait for it, or stop it: the lease ends after "
            f"{holder.ttl:g} s of silence."
        )


def _machine() -> str:
    """Where process numbers mean the same processes: this boot of this host, and this container of it."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    identity = boot.read_text().strip() if boot.is_file() else str(uuid.getnode())
    return f"{identity}/{namespace.readlink()}" if namespace.is_symlink() else identity


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
