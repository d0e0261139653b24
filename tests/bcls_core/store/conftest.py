"""Small stores on a disk and in memory, and tables to put into them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bcls_core.store import Artifact, Store

MakeTable = Callable[..., Any]
MakeVersion = Callable[..., Artifact]


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A root that does not exist yet."""
    return str(tmp_path / "data") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def store(root: str) -> Store:
    return Store(root)


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


@pytest.fixture
def captions() -> MakeTable:
    """`captions(start, stop)`: rows with those ids, the same every time."""

    def make(start: int, stop: int, word: str = "cube") -> Any:
        ids = range(start, stop)
        return pa.table(
            {
                "caption_id": pa.array(ids, pa.int64()),
                "image_id": [f"scene-{number // 5:06d}" for number in ids],
                "caption": [None if number % 7 == 3 else f"a {word} and {number} balls" for number in ids],
                "weights": pa.array([[number / 3] * (number % 4) for number in ids], pa.list_(pa.float32())),
            }
        )

    return make


@pytest.fixture
def make_version(captions: MakeTable) -> MakeVersion:
    """`make_version(store, version)`: a committed corpus of two captions parts and one file."""

    def make(store: Store, version: str, *, word: str = "cube", kind: str = "corpus") -> Artifact:
        draft = store.draft(kind, version)
        draft.write_table("captions", 0, captions(0, 10, word))
        draft.write_table("captions", 1, captions(10, 25, word))
        draft.write_bytes("truth/scenes.bin", b"truth")
        return draft.commit(fingerprint={"version": version}, schema="corpus/1", sidecar={"run": "r1"})

    return make
