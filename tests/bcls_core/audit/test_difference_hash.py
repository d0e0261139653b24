"""Hashes of pictures saved anew, and the search against counting bits in plain Python."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcls_core.audit.difference_hash import as_hashes, difference_hash, nearest_hashes
from bcls_core.errors import ShapeError


def differ(a: bytes, b: bytes) -> int:
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def test_the_bits_are_rising_greys_row_by_row() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 17), dtype=np.uint8)
    bits = [int(grey[y, x + 1] > grey[y, x]) for y in range(16) for x in range(16)]
    expected = bytes(int("".join(map(str, bits[i : i + 8])), 2) for i in range(0, 256, 8))
    assert difference_hash(Image.fromarray(grey)) == expected


@pytest.mark.parametrize("change", ["quality", "half", "double", "darker"])
def test_a_picture_saved_anew_keeps_its_hash_and_others_do_not(picture: Callable[..., Any], change: str) -> None:
    for seed in range(5):
        original = picture(seed, (160, 120))
        buffer = io.BytesIO()
        if change == "quality":
            original.save(buffer, "JPEG", quality=30)
            other = Image.open(buffer)
        elif change == "darker":
            other = original.point(lambda value: int(value * 0.8))
        else:
            other = original.resize((80, 60) if change == "half" else (320, 240))
        assert differ(difference_hash(original), difference_hash(other)) <= 40
        assert differ(difference_hash(original), difference_hash(picture(seed + 100, (160, 120)))) > 60


def brute_force(queries: list[bytes], rows: list[bytes], within: int, k: int) -> list[list[tuple[int, int]]]:
    found = []
    for query in queries:
        near = sorted((differ(query, row), place) for place, row in enumerate(rows))
        near = [pair for pair in near if pair[0] <= within][:k]
        found.append(near + [(-1, -1)] * (k - len(near)))
    return found


@pytest.mark.parametrize("within", [0, 3, 40, 100, 256])
@pytest.mark.parametrize(("queries", "rows"), [(0, 5), (5, 0), (9, 1), (70, 40), (3, 1100)])
@pytest.mark.parametrize("k", [1, 4])
def test_the_nearest_are_exact_and_ties_go_to_the_lower_row(within: int, queries: int, rows: int, k: int) -> None:
    dice = np.random.default_rng([within, queries, rows, k])
    stems = [dice.bytes(32) for _ in range(6)]

    def draw(count: int) -> list[bytes]:
        flips = [np.packbits(dice.random(256) < dice.choice([0, 0.005, 0.05, 0.3])) for _ in range(count)]
        return [bytes(a ^ int(b) for a, b in zip(stems[dice.integers(6)], flip, strict=True)) for flip in flips]

    asked, searched = draw(queries), draw(rows)
    distances, places = nearest_hashes(as_hashes(asked), as_hashes(searched), within=within, k=k)
    found = [list(zip(*pair, strict=True)) for pair in zip(distances.tolist(), places.tolist(), strict=True)]
    assert found == brute_force(asked, searched, within, k)


def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(0)
    queries, rows = (dice.integers(0, 4, (count, 4), dtype=np.uint64) for count in (300, 9000))
    alone = nearest_hashes(queries, rows, within=8, k=3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    together = nearest_hashes(queries, rows, within=8, k=3)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_no_search_is_refused() -> None:
    hashes = as_hashes([bytes(32)])
    with pytest.raises(ShapeError, match="k=0"):
        nearest_hashes(hashes, hashes, within=1, k=0)
    with pytest.raises(ShapeError, match="widths agree"):
        nearest_hashes(hashes, hashes[:, :2], within=1, k=1)
