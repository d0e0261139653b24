"""Updated lists against lists made anew, over histories of edits; the oracle sorts every pair."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ShapeError
from bcls_core.similarity import incremental
from bcls_core.similarity.cider import Cider
from bcls_core.similarity.cider_d import CiderD
from bcls_core.similarity.embedding import EmbeddingCosine
from bcls_core.similarity.incremental import Update, update_neighbours
from bcls_core.similarity.incremental_changes import kept_captions
from bcls_core.similarity.incremental_lists import Lists
from bcls_core.similarity.split_rows import SplitRows

WORDS = [
    "a dog",
    "a dog runs",
    "the dog runs",
    "a red bus",
    "the red bus stops here",
    "a bus a bus a bus",
    "red",
    "two",
]
TEXTS = [*WORDS, *(f"{a} and {b}" for a in WORDS for b in WORDS)]
SPARSE = {"cider": Cider.fit(TEXTS, range(len(TEXTS))), "cider-d": CiderD.fit(TEXTS, range(len(TEXTS)))}
SIMILARITY: dict[str, Any] = {
    "dense": EmbeddingCosine.similarity,
    **{name: measure.similarity for name, measure in SPARSE.items()},
}
MANY = 10  # kinds of rows, so that equal rows and equal scores are common
DENSE = np.random.default_rng(7).integers(-2, 3, size=(MANY, 4)).astype(np.float16) + np.float16(0.25)


@dataclass(frozen=True)
class Caption:
    text: int
    image: str


History = dict[int, Caption]


def split_of(kind: str, captions: History) -> SplitRows:
    ids = sorted(captions)
    texts = [captions[i].text for i in ids]
    rows: Any = DENSE[texts].reshape(-1, 4) if kind == "dense" else SPARSE[kind].represent([TEXTS[t] for t in texts])
    return SplitRows(np.array(ids, dtype=np.int64), np.array([captions[i].image for i in ids], dtype=str), rows)


@cache
def score(kind: str, a: int, b: int) -> float:
    if kind != "dense":
        return float(SPARSE[kind].pairs([TEXTS[a]], [TEXTS[b]])[0])
    x, y = DENSE[a].tolist(), DENSE[b].tolist()
    norms = [math.sqrt(math.fsum(value * value for value in row)) for row in (x, y)]
    return float(np.float32(math.fsum(p * q for p, q in zip(x, y, strict=True)) / (norms[0] * norms[1])))


def by_sorting_every_pair(kind: str, captions: History, k: int) -> list[list[tuple[int, float]]]:
    lists = []
    for _, own in sorted(captions.items()):
        others = [(-score(kind, own.text, c.text), i) for i, c in captions.items() if c.image != own.image]
        lists.append([(i, -negative) for negative, i in sorted(others)[:k]])
    return lists


def made_anew(similarity: Any, split: SplitRows, k: int) -> Lists:
    scores, found = similarity.top_k(split.rows, k, exclude=split.images)
    return Lists.of(split.ids, scores, split.ids[found] if len(split) else found)


def plain(lists: Lists) -> list[list[tuple[int, float]]]:
    return [
        list(zip(lists.neighbours[a:b].tolist(), lists.scores[a:b].tolist(), strict=True))
        for a, b in zip(lists.starts[:-1], lists.starts[1:], strict=True)
    ]


def assert_same(found: Lists, expected: Lists) -> None:
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.starts, expected.starts)
    np.testing.assert_array_equal(found.neighbours, expected.neighbours)
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert (found.scores.dtype, found.neighbours.dtype, found.k) == (np.float32, np.int64, expected.k)


IDS, IMAGES = st.integers(-3, 2**40) | st.integers(0, 12), st.sampled_from("abcde")
CAPTIONS = st.builds(Caption, st.integers(0, MANY - 1), IMAGES)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), IDS, CAPTIONS),
        st.tuples(st.sampled_from(["remove", "move", "text"]), st.integers(0, 50), CAPTIONS),
        st.tuples(st.sampled_from(["rename images", "empty", "change all"]), st.just(0), CAPTIONS),
    ),
    max_size=4,
)


def edited(captions: History, edits: list[tuple[str, int, Caption]]) -> History:
    result = dict(captions)
    for what, number, caption in edits:
        if what == "add":
            result.setdefault(number, caption)
        elif what == "rename images":
            result = {i: replace(old, image=chr(219 - ord(old.image))) for i, old in result.items()}
        elif what == "empty":
            result = {}
        elif what == "change all":
            result = {i: replace(old, text=(old.text + 1) % MANY) for i, old in result.items()}
        elif result:
            i = sorted(result)[number % len(result)]
            if what == "remove":
                del result[i]
            else:
                result[i] = replace(
                    result[i], **({"image": caption.image} if what == "move" else {"text": caption.text})
                )
    return result


@contextmanager
def small_steps(never_all: bool) -> Iterator[None]:
    """Few lists at once, few candidates at first; `never_all`: no short way out where all could be searched."""
    with mock.patch.multiple(incremental, _LISTS=3, _FEWEST=1):
        if never_all:
            with mock.patch.object(incremental._Updating, "_is_more_than_all", return_value=False):
                yield
        else:
            yield


@pytest.mark.parametrize("kind", SIMILARITY)
@pytest.mark.parametrize(("never_all", "with_spare"), [(True, False), (True, True), (False, False)])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_histories_of_edits(kind: str, never_all: bool, with_spare: bool, data: st.DataObject) -> None:
    captions = data.draw(st.dictionaries(IDS, CAPTIONS, max_size=14))
    k = data.draw(st.integers(1, 5) | st.just(20))
    similarity = SIMILARITY[kind]
    before = split_of(kind, captions)
    lists = made_anew(similarity, before, k)
    for edits in data.draw(st.lists(EDITS, min_size=1, max_size=3)):
        captions = edited(captions, edits)
        split = split_of(kind, captions)
        k = data.draw(st.sampled_from([k, k, k, max(1, k - 1), k + 1]))
        spare = data.draw(st.integers(0, 3)) if with_spare else 0
        with small_steps(never_all):
            kept = kept_captions(before, split)
            updated, update = update_neighbours(similarity, split, k, lists, kept, spare=spare)
            cut = data.draw(st.lists(st.booleans(), min_size=len(split), max_size=len(split)))
            panels = [split.ids[np.array(cut, dtype=bool)], split.ids[~np.array(cut, dtype=bool)]]
            parts = [
                update_neighbours(similarity, split, k, lists, kept, panel=panel, spare=spare)[0] for panel in panels
            ]
        assert_same(updated.shortened(), made_anew(similarity, split, k))
        assert_same(Lists.joined(parts).shortened(), updated.shortened())
        found, expected = plain(updated), by_sorting_every_pair(kind, captions, k + spare)
        assert found == [best[: len(mine)] for mine, best in zip(found, expected, strict=True)]
        assert spare or found == expected
        assert update.kept + update.repaired + update.new == len(split)
        assert update.new == len(split) - len(kept)
        assert update.removed == len(before) - len(kept)
        before, lists = split, updated


def clustered(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(40, 24))[rng.integers(0, 40, count)] + 0.5 * rng.normal(size=(count, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


COUNT, K = 1500, 12
DENSE_SIMILARITY = EmbeddingCosine.similarity


@pytest.fixture(scope="module")
def large() -> tuple[SplitRows, Lists]:
    split = SplitRows(np.arange(COUNT) * 3, np.arange(COUNT) // 5, clustered(COUNT, 1))
    return split, made_anew(DENSE_SIMILARITY, split, K)


def test_nothing_changed_costs_nothing(large: tuple[SplitRows, Lists]) -> None:
    split, lists = large
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, split.ids)
    assert_same(updated, lists)
    assert update == Update(COUNT, 0, 0, 0, 0, COUNT * COUNT)
    shorter, update = update_neighbours(DENSE_SIMILARITY, split, K - 3, lists, split.ids)
    assert_same(shorter, made_anew(DENSE_SIMILARITY, split, K - 3))
    assert update.products == 0


def test_removals_repair_the_lists_that_lost_somebody(large: tuple[SplitRows, Lists]) -> None:
    before, lists = large
    stays = np.arange(COUNT) % 100 != 7
    split = SplitRows(before.ids[stays], before.images[stays], before.rows[stays])
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, kept_captions(before, split))
    assert_same(updated, made_anew(DENSE_SIMILARITY, split, K))
    lost = ~np.isin(lists.neighbours, split.ids).reshape(COUNT, K)[stays].all(axis=1)
    assert 0 < lost.sum() < 300
    assert update == Update(len(split) - lost.sum(), lost.sum(), 0, 15, lost.sum() * len(split), len(split) ** 2)


def test_places_to_spare_save_repairs(large: tuple[SplitRows, Lists]) -> None:
    before, _ = large
    nothing = Lists.of(np.empty(0), np.empty((0, K), dtype=np.float32), np.empty((0, K), dtype=np.int64))
    lists, update = update_neighbours(DENSE_SIMILARITY, before, K, nothing, np.empty(0, dtype=np.int64), spare=6)
    assert (lists.k, set(lists.lengths.tolist()), update.new) == (K, {K + 6}, COUNT)
    stays = np.arange(COUNT) % 100 != 7
    split = SplitRows(before.ids[stays], before.images[stays], before.rows[stays])
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, split.ids, spare=6)
    assert update == Update(len(split), 0, 0, 15, 0, len(split) ** 2)
    assert_same(updated.shortened(), made_anew(DENSE_SIMILARITY, split, K))
    assert updated.lengths.min() < K + 6
    again, update = update_neighbours(DENSE_SIMILARITY, before, K, updated, split.ids, spare=6)
    assert_same(again.shortened(), made_anew(DENSE_SIMILARITY, before, K))
    assert (update.repaired, again.lengths.max()) == (0, K + 6)


def test_new_captions_meet_all_and_are_offered_to_all(large: tuple[SplitRows, Lists]) -> None:
    before, lists = large
    ids = np.concatenate([before.ids, np.arange(15) * 300 + 1])
    order = np.argsort(ids)
    images = np.concatenate([before.images, np.arange(15) * 20])[order]
    split = SplitRows(ids[order], images, np.concatenate([before.rows, clustered(15, 2)])[order])
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, before.ids)
    assert_same(updated, made_anew(DENSE_SIMILARITY, split, K))
    assert (update.kept, update.repaired, update.new) == (COUNT, 0, 15)
    assert 15 * (COUNT + len(split)) <= update.products < 17 * (COUNT + len(split))


def test_a_row_that_hardly_changes_fills_the_place_it_left(large: tuple[SplitRows, Lists]) -> None:
    before, lists = large
    rows = before.rows.copy()
    changed = np.arange(7, COUNT, 100)
    rows[changed, 0] = np.nextafter(rows[changed, 0], np.float16(4))
    split = SplitRows(before.ids, before.images, rows)
    kept = kept_captions(before, split)
    assert len(kept) == COUNT - 15
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, kept)
    assert_same(updated, made_anew(DENSE_SIMILARITY, split, K))
    lost = (~np.isin(lists.neighbours, kept).reshape(COUNT, K)).any(axis=1).sum()
    assert update.repaired < lost / 4


def test_one_crowd_takes_all_places(large: tuple[SplitRows, Lists]) -> None:
    """Few new captions are asked for at first, but here a list takes a dozen."""
    before, lists = large
    ids = np.arange(60) + before.ids[-1] + 1
    rows = np.concatenate([before.rows, np.repeat(before.rows[:1], 60, axis=0)])
    split = SplitRows(np.concatenate([before.ids, ids]), np.append(before.images, np.full(60, -1)), rows)
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, before.ids)
    assert_same(updated, made_anew(DENSE_SIMILARITY, split, K))
    assert set(updated.neighbours[:K].tolist()) <= {*ids.tolist(), *before.ids.tolist()}
    assert np.isin(updated.neighbours[:K], ids).sum() > incremental._FEWEST
    assert update.products < update.full_products / 4


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_when_most_is_new_all_is_searched_at_once(large: tuple[SplitRows, Lists], share: float) -> None:
    before, lists = large
    rows = before.rows.copy()
    changed = np.arange(int(share * COUNT)) * (1 / share)
    rows[changed.astype(int)] = clustered(len(changed), 3)
    split = SplitRows(before.ids, before.images, rows)
    kept = kept_captions(before, split)
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, kept)
    assert_same(updated, made_anew(DENSE_SIMILARITY, split, K))
    if share > 0.5:
        assert update == Update(0, len(kept), COUNT - len(kept), COUNT - len(kept), COUNT**2, COUNT**2)
    else:
        assert update.kept > 0


def test_where_repairs_would_cost_more_nobody_is_offered_anything(large: tuple[SplitRows, Lists]) -> None:
    """Few captions are gone, but most lists lost somebody: all are searched, and nothing was compared before that."""
    before, lists = large
    stays = np.arange(COUNT) % 12 != 7
    split = SplitRows(before.ids[stays], before.images[stays], before.rows[stays])
    updated, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, split.ids)
    assert_same(updated, made_anew(DENSE_SIMILARITY, split, K))
    lost = ~np.isin(lists.neighbours, split.ids).reshape(COUNT, K)[stays].all(axis=1)
    assert lost.mean() > 0.5
    assert update.products == update.full_products
    with mock.patch.object(incremental._Updating, "_is_more_than_all", return_value=False):
        _, repaired = update_neighbours(DENSE_SIMILARITY, split, K, lists, split.ids)
    updating = incremental._Updating(DENSE_SIMILARITY, split, K, K, lists, np.zeros(len(split), dtype=bool), None)
    assert updating._expected_repairs(np.arange(len(split))) == pytest.approx(repaired.repaired)
    assert repaired.repaired == lost.sum()


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_repairs_are_foreseen_where_new_captions_come_as_old_ones_go(
    large: tuple[SplitRows, Lists], share: float
) -> None:
    before, lists = large
    rows = before.rows.copy()
    changed = np.random.default_rng(5).permutation(COUNT)[: int(share * COUNT)]
    rows[changed] = clustered(2 * COUNT, 1)[changed + COUNT]  # of the same clusters
    split = SplitRows(before.ids, before.images, rows)
    is_new = np.zeros(COUNT, dtype=bool)
    is_new[changed] = True
    kept = before.ids[~is_new]
    with mock.patch.object(incremental._Updating, "_is_more_than_all", return_value=False):
        _, update = update_neighbours(DENSE_SIMILARITY, split, K, lists, kept)
    updating = incremental._Updating(DENSE_SIMILARITY, split, K, K, lists, is_new, None)
    expected = updating._expected_repairs(np.flatnonzero(~is_new))
    assert expected == pytest.approx(update.repaired, rel=0.3)


def test_rows_may_be_mapped_and_old_lists_may_be_the_panels_own(large: tuple[SplitRows, Lists], tmp_path: Path) -> None:
    before, lists = large
    rows = before.rows.copy()
    rows[::50] = clustered(30, 4)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    split = SplitRows(before.ids, before.images, mapped)
    kept = kept_captions(before, split)
    expected = made_anew(DENSE_SIMILARITY, split, K)
    parts = []
    for start in range(0, COUNT, 400):
        panel = before.ids[start : start + 400]
        own = slice(start, start + len(panel))
        starts = lists.starts[start : start + len(panel) + 1]
        cells = slice(starts[0], starts[-1])
        old = Lists(lists.ids[own], starts - starts[0], lists.neighbours[cells], lists.scores[cells], K)
        part, update = update_neighbours(DENSE_SIMILARITY, split, K, old, kept, panel=panel)
        assert update.full_products == len(panel) * COUNT
        assert update.removed == update.new == 8 if start < 1200 else 6
        parts.append(part)
    assert_same(Lists.joined(parts), expected)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"k": 0}, "k=0"),
        ({"spare": -1}, "spare=-1"),
        ({"kept": np.array([4, 2])}, "kept captions: 4 comes before 2"),
        ({"kept": np.array([2, 3])}, "kept captions: 3 is not among the split's 3"),
        ({"panel": np.array([2, 2])}, "panel: 2 comes before 2"),
        ({"panel": np.array([5])}, "panel: 5 is not among the split's 3"),
        ({"kept": np.array([6])}, "caption 6 has no list among 2"),
    ],
)
def test_arguments_that_disagree_are_refused(arguments: dict[str, Any], found: str) -> None:
    split = SplitRows(np.array([2, 4, 6]), [0, 1, 2], np.eye(3, dtype=np.float16))
    old = Lists(np.array([2, 4]), np.array([0, 1, 2]), np.array([4, 2]), np.zeros(2, dtype=np.float32), 1)
    usual: dict[str, Any] = {"split": split, "k": 1, "old": old, "kept": np.array([2, 4])}
    with mock.patch.object(incremental._Updating, "_is_more_than_all", return_value=False):
        update_neighbours(DENSE_SIMILARITY, **usual)
        with pytest.raises(ShapeError, match=found):
            update_neighbours(DENSE_SIMILARITY, **{**usual, **arguments})
