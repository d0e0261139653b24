"""What must hold of `bcls label` whatever was killed while it was at work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bcls_core.store import Artifact, Store
from bcls_core.store.workspace import Workspace

WORKERS = 2


@dataclass(frozen=True)
class State:
    """What a draft says: how often each piece was begun, and which are marked done; empty once it is committed."""

    starts: dict[str, int]
    marks: frozenset[str]

    @classmethod
    def of(cls, root: Path, version: str) -> State:
        store = Store(root)
        if store.find("labels", version) is not None:
            return cls({}, frozenset())
        workspace = Workspace(store.filesystem, f"labels/{version}")
        marks = frozenset(workspace.marks())  # before the starts, so that none of them lacks its start
        return cls(workspace.starts(), marks)

    @property
    def in_flight(self) -> list[str]:
        return sorted(self.starts.keys() - self.marks)


@dataclass
class Calm:
    """The same labels made without a kill, by plain processes and on Ray; what killed runs are compared with."""

    corpus: Path
    settings: tuple[str, ...]
    plain: Artifact
    on_ray: Artifact
    cache: list[bytes]
    totals: dict[str, int]


@dataclass
class Run:
    """One command under kills: what was done to it."""

    on: str
    kills: list[dict[str, Any]] = field(default_factory=list)
    before_restarts: list[State] = field(default_factory=list)
    states: list[State] = field(default_factory=list)


def claims_of(run: Run, calm: Calm, root: Path) -> dict[str, bool]:
    """What must hold after a run, by name."""
    store = Store(root)
    labels, published = store.current("labels"), store.publications("labels")
    starts, pieces = labels.sidecar["starts"], [piece["piece"] for piece in labels.sidecar["pieces"]]
    folder = root / "labels" / labels.version
    named = {entry.path for entry in labels.manifest.files} | {"manifest.json", "sidecar.json"}
    return {
        "equal content": labels.content_digest == calm.plain.content_digest == calm.on_ray.content_digest,
        "verified": store.verify(labels, deep=True) == [],
        "published once": [one.version for one in published] == [calm.plain.version],
        "nothing left behind": {str(path.relative_to(folder)) for path in _files(folder)} == named,
        "no folder left behind": not any(path.name.startswith("_") for path in folder.iterdir()),
        "every piece once in the record": sorted(pieces) == sorted(starts) == sorted(set(pieces)),
        "begun again at most what was in flight": sum(starts.values()) <= len(pieces) + WORKERS * len(run.states),
        "after a kill the remainder and what was in flight": _remainders_hold(run, starts, ""),
        "panels after a kill: the remainder and what was in flight": _remainders_hold(run, starts, "neighbours-"),
        "marked pieces are not begun again": all(
            starts[piece] == state.starts[piece] for state in run.before_restarts for piece in state.marks
        ),
        "equal embeddings, each kept once": cached(root) == calm.cache,
    }


def _remainders_hold(run: Run, starts: dict[str, int], prefix: str) -> bool:
    """After each kill no more was begun than had no mark, plus what each kill from then on interrupted."""
    counted = {piece: count for piece, count in starts.items() if piece.startswith(prefix)}
    for at, state in enumerate(run.states):
        if not state.starts:
            continue  # committed already
        begun = sum(count for piece, count in state.starts.items() if piece in counted)
        remainder = len(counted.keys() - state.marks) + WORKERS * (len(run.states) - at)
        if sum(counted.values()) - begun > remainder:
            return False
    return True


def cached(root: Path) -> list[bytes]:
    """Key and row of every embedding in a root's cache, sorted."""
    found = []
    for path in _files(root / "embeddings"):
        data = path.read_bytes()
        count, width = (int(number) for number in np.frombuffer(data[8:24], dtype="<u8"))
        keys, rows = data[32 : 32 + 32 * count], data[32 + 32 * count : -32]
        found += [keys[32 * i : 32 * (i + 1)] + rows[2 * width * i : 2 * width * (i + 1)] for i in range(count)]
    return sorted(found)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
