"""SIGKILL at any moment of writing, committing, publishing: nothing half-made shows, the next attempt finishes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bcls_core.store import Artifact, Store

PARTS = 8
ROWS = 2_000
KILLS_BEFORE_MERCY = 6


def _part(number: int) -> Any:
    random_numbers = np.random.default_rng(number)
    ids = np.arange(number * ROWS, (number + 1) * ROWS)
    embeddings = random_numbers.standard_normal(ROWS * 16).astype(np.float16)
    return pa.table(
        {
            "caption_id": ids,
            "caption": [f"scene {value} has {value % 9} cubes" for value in ids],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings), 16),
        }
    )


def _job(root: str, parts: int = PARTS) -> None:
    """What a flow does: continue the draft, skip what is marked, commit, publish."""
    store = Store(root)
    artifact = store.find("labels", "v1")
    if artifact is None:
        with store.lease("labels", "v1"):
            draft = store.draft("labels", "v1")
            done = draft.marks()
            for number in range(parts):
                if f"part/{number}" not in done:
                    draft.write_table("embeddings", number, _part(number))
                    draft.write_bytes(f"statistics/{number}.bin", bytes([number]) * 5_000)
                    draft.mark(f"part/{number}", {"rows": ROWS})
            artifact = draft.commit(fingerprint={"seed": 0}, schema="labels/1")
    store.publish(artifact, expected=None)


def _start(target: Any, *arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def _check_what_shows(store: Store, expected: Artifact) -> None:
    """Whatever is visible is complete, even if the job died right after its commit."""
    for info in store.list(unpublished=True):
        assert info.content_digest == expected.content_digest
        assert store.verify(store.resolve("labels", info.version)) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, float]:
    """The version as it should be, and the seconds it takes."""
    for _ in range(2):  # the first is slower
        root = tmp_path_factory.mktemp("undisturbed")
        started = time.perf_counter()
        process = _start(_job, str(root))
        process.join()
        seconds = time.perf_counter() - started
        assert process.exitcode == 0
    return Store(root).current("labels"), seconds


@pytest.mark.parametrize("seed", range(5))
def test_killed_jobs_show_nothing_and_are_finished_by_the_next(
    tmp_path: Path, undisturbed: tuple[Artifact, float], seed: int
) -> None:
    expected, seconds = undisturbed
    moments, store, kills = random.Random(seed), Store(tmp_path), 0  # noqa: S311
    while True:
        process = _start(_job, str(tmp_path))
        # The first comes early: a busy machine may have taken far longer undisturbed than it takes now.
        latest = (0.4 if kills else 0.05) * seconds
        process.join(moments.uniform(0, latest) if kills < KILLS_BEFORE_MERCY else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode in (0, -signal.SIGKILL)
        _check_what_shows(store, expected)
        if process.exitcode == 0:
            break
    artifact = store.current("labels")
    assert kills > 0
    assert artifact.manifest.files == expected.manifest.files  # the same bytes, too
    assert store.verify(artifact, deep=True) == []
    assert [published.sequence for published in store.publications("labels")] == [1]


STEPS = ("fsync", "link", "replace", "rename", "unlink", "mkdir", "rmdir")


def _job_that_dies(root: str, step: int) -> None:
    """A small job that kills itself right before its system call number `step`."""
    steps = itertools.count()

    def deadly(real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    for name in STEPS:
        setattr(os, name, deadly(getattr(os, name)))
    _job(root, 1)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_every_single_step(tmp_path: Path, stride: int) -> None:
    _job(str(tmp_path / "undisturbed"), 1)
    expected = Store(tmp_path / "undisturbed").current("labels")
    for step in itertools.count(step=stride):
        root = tmp_path / str(step)
        process = _start(_job_that_dies, str(root), step)
        process.join()
        _check_what_shows(Store(root), expected)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        _job(str(root), 1)
        artifact = Store(root).current("labels")
        assert artifact.manifest.files == expected.manifest.files
        assert Store(root).verify(artifact, deep=True) == []
        left = [name for name in Store(root).filesystem.files("labels/v1") if name.startswith("_work")]
        assert left == []
    assert step > 40


def _write_again_and_again(root: str, path: str) -> None:
    filesystem = Store(root).filesystem
    for number in range(1_000_000):
        filesystem.write(path, bytes([number % 251]) * 300_000)
        filesystem.put_if_absent(f"once/{number:08d}", bytes([number % 251]) * 300_000)


@pytest.mark.parametrize("seed", range(3))
def test_readers_see_whole_files_while_writers_are_killed(tmp_path: Path, seed: int) -> None:
    moments, filesystem = random.Random(seed), Store(tmp_path).filesystem  # noqa: S311
    contents = {bytes([value]) * 300_000 for value in range(251)}
    filesystem.write("again", bytes(300_000))
    for _ in range(4):
        process = _start(_write_again_and_again, str(tmp_path), "again")
        deadline = time.monotonic() + moments.uniform(0.05, 0.15)
        while time.monotonic() < deadline:
            assert filesystem.read("again") in contents
        process.kill()
        process.join()
        assert filesystem.read("again") in contents
        once = [name for name in filesystem.names("once") if not name.endswith(".tmp")]
        assert all(filesystem.read(f"once/{name}") in contents for name in once)
