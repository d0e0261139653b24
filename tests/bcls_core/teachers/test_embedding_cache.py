from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bcls_core.errors import ModelError
from bcls_core.store import Store
from bcls_core.store.filesystem import Filesystem
from bcls_core.teachers import embedding_cache
from bcls_core.teachers.embedding_cache import EmbeddingCache
from bcls_core.teachers.text import TextTeacher

FINGERPRINT = {"version": 1}
WIDTH = 8


class Encoder:
    """Rows that depend on the text and, as an encoder's last bits may, on the call; remembers what it was asked."""

    def __init__(self, noise: int = 0) -> None:
        self.noise, self.asked = noise, []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        self.noise += 1
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
        rows = np.array([np.random.default_rng(seed).standard_normal(WIDTH) for seed in seeds])
        return (rows + self.noise * 2.0**-9).astype(np.float16)


def files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "embeddings").rglob("*") if path.is_file())


def cache(root: Path | str, fingerprint: dict = FINGERPRINT) -> EmbeddingCache:
    return EmbeddingCache(Store(root).filesystem, fingerprint, WIDTH)


TEXTS = [f"caption {number}" for number in range(50)]


def test_known_rows_stay_and_the_rest_is_encoded(tmp_path: Path) -> None:
    first, second, third = Encoder(), Encoder(10), Encoder(20)
    old = cache(tmp_path).encode(TEXTS[:30], first)
    both = cache(tmp_path).encode([*TEXTS[10:], *TEXTS[:10], TEXTS[45]], second)
    assert second.asked == [TEXTS[30:]]
    np.testing.assert_array_equal(both[:20], old[10:30])
    np.testing.assert_array_equal(both[40:50], old[:10])
    np.testing.assert_array_equal(both[50], both[35])
    again = cache(tmp_path).encode(TEXTS, third)
    assert third.asked == []
    np.testing.assert_array_equal(again, np.concatenate([both[40:50], both[:40]]))


def test_one_object_sees_what_others_wrote(tmp_path: Path) -> None:
    one, other, none = cache(tmp_path), cache(tmp_path), Encoder()
    one.encode(TEXTS[:5], Encoder())
    rows = other.encode(TEXTS, Encoder(7))
    np.testing.assert_array_equal(one.encode(TEXTS, none), rows)
    assert none.asked == []


def test_teachers_of_other_fingerprints_share_nothing(tmp_path: Path) -> None:
    other = Encoder()
    cache(tmp_path).encode(TEXTS, Encoder())
    cache(tmp_path, {"version": 2}).encode(TEXTS, other)
    assert other.asked == [TEXTS]


def test_strange_texts_and_none(tmp_path: Path) -> None:
    texts, none = ["", " ", "é", "e\u0301", "x\0", "x", "\ud800", "x" * 100_000], Encoder()

    def encode(given: Sequence[str]) -> np.ndarray:
        return np.arange(len(given) * WIDTH, dtype=np.float16).reshape(-1, WIDTH)

    rows = cache(tmp_path).encode(texts, encode)
    np.testing.assert_array_equal(cache(tmp_path).encode(texts[::-1], none), rows[::-1])
    assert cache(tmp_path).encode([], none).shape == (0, WIDTH)
    assert none.asked == []


@pytest.mark.parametrize("harm", ["row", "key", "cut", "empty", "checksum", "other width"])
def test_a_damaged_part_is_encoded_again(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = cache(tmp_path).encode(TEXTS[:20], Encoder())
    cache(tmp_path).encode(TEXTS[20:], Encoder())
    path = files(tmp_path)[1]
    data = bytearray(path.read_bytes())
    places = {"row": len(data) - 40, "key": 40, "checksum": len(data) - 1, "other width": 16}
    if harm in places:
        data[places[harm]] ^= 1
    path.write_bytes({"cut": data[:-5], "empty": b""}.get(harm, data))
    again, none = Encoder(30), Encoder()
    rows = cache(tmp_path).encode(TEXTS, again)
    assert again.asked == [TEXTS[20:]]
    assert f"{path} is damaged" in caplog.text
    np.testing.assert_array_equal(rows[:20], whole)
    np.testing.assert_array_equal(cache(tmp_path).encode(TEXTS, none), rows)
    path.unlink()
    np.testing.assert_array_equal(cache(tmp_path).encode([*TEXTS, "new"], none)[:-1], rows)
    assert none.asked == [["new"]]


def test_who_comes_second_takes_the_rows_of_the_first(tmp_path: Path) -> None:
    def meanwhile(texts: Sequence[str]) -> np.ndarray:
        first.append(cache(tmp_path).encode(TEXTS[5:40], Encoder(9)))
        return Encoder()(texts)

    first: list[np.ndarray] = []
    rows = cache(tmp_path).encode(TEXTS[:20], meanwhile)
    np.testing.assert_array_equal(rows[5:20], first[0][:15])
    np.testing.assert_array_equal(cache(tmp_path).encode(TEXTS[:20], Encoder()), rows)


def _fill(root: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(TEXTS))
    found, own = cache(root), Encoder(seed)
    parts = [found.encode([TEXTS[place] for place in order[start : start + 7]], own) for start in range(0, 50, 7)]
    return order, np.concatenate(parts)


def test_processes_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(_fill, [(tmp_path, seed) for seed in range(8)])
    none = Encoder()
    rows = cache(tmp_path).encode(TEXTS, none)
    assert none.asked == []
    for order, others in found:
        np.testing.assert_array_equal(others, rows[order])


ENDLESS = """
import sys, numpy as np
from tests.bcls_core.teachers.test_embedding_cache import Encoder, cache
found, number = cache(sys.argv[1]), 0
while True:
    found.encode([f"{number} {row}" for row in range(300)], Encoder())
    number += 1
"""


def test_a_killed_process_leaves_whole_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while len(files(tmp_path)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    none = Encoder()
    cache(tmp_path).encode([f"{number} {row}" for number in range(2) for row in range(300)], none)
    assert none.asked == []
    assert "damaged" not in caplog.text


def test_pieces_are_kept_as_they_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "PIECE", 20)

    def fails_late(texts: Sequence[str]) -> np.ndarray:
        if TEXTS[45] in texts:
            raise ModelError("no")
        return Encoder()(texts)

    with pytest.raises(ModelError, match="no"):
        cache(tmp_path).encode(TEXTS, fails_late)
    rest = Encoder()
    cache(tmp_path).encode(TEXTS, rest)
    assert rest.asked == [TEXTS[40:]]


@pytest.mark.parametrize(
    "rows", [np.zeros((49, WIDTH), np.float16), np.zeros((50, 9), np.float16), np.zeros((50, WIDTH), np.float32)]
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ModelError, match="keeps float16 rows of 8 numbers"):
        cache(tmp_path).encode(TEXTS, lambda _: rows)
    assert files(tmp_path) == []


def test_a_place_that_is_no_disk(tmp_path: Path) -> None:
    class Elsewhere(Filesystem):
        """Reads and writes as the folder does, without being one that can be mapped."""

        def __init__(self) -> None:
            self._disk = Store(tmp_path).filesystem

        def __getattribute__(self, name: str):
            if name in ("__class__", "_disk"):
                return object.__getattribute__(self, name)
            return getattr(self._disk, name)

    Elsewhere.__abstractmethods__ = frozenset()
    none = Encoder()
    rows = EmbeddingCache(Elsewhere(), FINGERPRINT, WIDTH).encode(TEXTS, Encoder())
    np.testing.assert_array_equal(EmbeddingCache(Elsewhere(), FINGERPRINT, WIDTH).encode(TEXTS, none), rows)
    np.testing.assert_array_equal(cache(tmp_path).encode(TEXTS, none), rows)
    assert none.asked == []


def test_two_corpora_share_a_teachers_rows(tmp_path: Path, tiny: Path) -> None:
    teacher = TextTeacher(str(tiny))
    old = [f"a {animal} {verb} on the beach" for animal in ("dog", "cat", "horse") for verb in ("runs", "sits")]
    new = ["two people at the beach", *old[:1:-1], "a red bicycle"]
    kept = EmbeddingCache(Store(tmp_path).filesystem, teacher.fingerprint, teacher.dimension)
    rows = kept.encode(old, teacher.encode)
    asked: list[list[str]] = []

    def encode(texts: Sequence[str]) -> np.ndarray:
        asked.append(list(texts))
        return teacher.encode(texts)

    others = EmbeddingCache(Store(tmp_path).filesystem, teacher.fingerprint, teacher.dimension).encode(new, encode)
    assert asked == [[new[0], new[-1]]]
    np.testing.assert_array_equal(others[1:-1], rows[:1:-1])
    np.testing.assert_allclose(others.astype(float), teacher.encode(new).astype(float), atol=1e-3)


def test_a_teacher_is_not_needed_where_all_is_known(tmp_path: Path) -> None:
    """Not even for the width of its rows, which the first whole part says."""

    def never(_: Sequence[str]) -> np.ndarray:
        raise AssertionError("the teacher was asked")

    def unsure() -> EmbeddingCache:
        return EmbeddingCache(Store(tmp_path).filesystem, FINGERPRINT)

    assert unsure().encode([], never).shape == (0, 0)
    rows = unsure().encode(TEXTS, Encoder())
    assert rows.shape == (len(TEXTS), WIDTH)
    np.testing.assert_array_equal(unsure().encode(TEXTS[::-1], never), rows[::-1])
    with pytest.raises(ModelError, match="rows of 8 numbers"):
        unsure().encode(["new"], lambda texts: np.ones((len(texts), 3), dtype=np.float16))
    EmbeddingCache(Store(tmp_path).filesystem, FINGERPRINT, 3)._keep(
        np.array([b"x" * 32], dtype="S32"), np.ones((1, 3), dtype=np.float16)
    )
    np.testing.assert_array_equal(unsure().encode(TEXTS, never), rows)
