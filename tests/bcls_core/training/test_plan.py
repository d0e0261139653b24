"""The batch plan's promises, as laws over random corpora, and what it does where they cannot all hold."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ShapeError
from bcls_core.training.plan import BatchPlan, batch_plan


@st.composite
def corpora(draw: st.DrawFn) -> np.ndarray:
    """Image rows of captions: 1 to 7 captions an image, in any order, row numbers with gaps."""
    counts = draw(st.lists(st.integers(1, 7), min_size=1, max_size=40))
    rows = draw(st.permutations(range(0, 3 * len(counts), 3)))
    shuffled = draw(st.permutations([row for row, count in zip(rows, counts, strict=True) for _ in range(count)]))
    return np.array(shuffled)


def step_of_caption(plan: BatchPlan, captions: int) -> np.ndarray:
    steps = np.full(captions, -1)
    for index in range(plan.steps):
        steps[plan.step(index)[1]] = index
    return steps


@given(corpora(), st.integers(1, 30), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_a_plan_keeps_its_promises(caption_image: np.ndarray, batch_size: int, seed: int, epoch: int) -> None:
    plan = batch_plan(caption_image, batch_size, seed=seed, epoch=epoch)
    steps = -(-len(caption_image) // batch_size)
    assert plan.steps == steps
    assert len(np.unique(plan.caption_rows)) == len(plan.caption_rows) == plan.used
    np.testing.assert_array_equal(caption_image[plan.caption_rows], plan.image_rows)
    counts = np.unique(caption_image, return_counts=True)[1]
    assert plan.left_out == np.maximum(counts - steps, 0).sum() == len(caption_image) - plan.used
    sizes = [len(plan.step(index)[0]) for index in range(steps)]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    for index in range(steps):
        images = plan.step(index)[0]
        assert len(np.unique(images)) == len(images)


@given(corpora(), st.integers(1, 30), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_slices_joined_in_rank_order_are_the_step(caption_image: np.ndarray, batch_size: int, world: int) -> None:
    plan = batch_plan(caption_image, batch_size, seed=0, epoch=0)
    for index in range(plan.steps):
        slices = [plan.slice(index, rank, world) for rank in range(world)]
        lengths = [len(images) for images, _ in slices]
        assert max(lengths) - min(lengths) <= 1
        for side, whole in enumerate(plan.step(index)):
            np.testing.assert_array_equal(np.concatenate([part[side] for part in slices]), whole)


def test_seed_and_epoch_determine_the_plan() -> None:
    caption_image = np.repeat(np.arange(60), 5)
    plan = batch_plan(caption_image, 16, seed=3, epoch=2)
    again = batch_plan(caption_image.astype(np.int32), 16, seed=3, epoch=2)
    np.testing.assert_array_equal(plan.caption_rows, again.caption_rows)
    for seed, epoch in [(3, 3), (4, 2), (2, 3)]:
        other = batch_plan(caption_image, 16, seed=seed, epoch=epoch)
        assert not np.array_equal(plan.caption_rows, other.caption_rows)


def test_the_plan_of_a_seed_never_changes() -> None:
    """Pinned: a change here changes every training, so it needs a new algorithm version."""
    plan = batch_plan(np.repeat(np.arange(100), 5), 32, seed=7, epoch=1)
    digest = hashlib.sha256(plan.caption_rows.astype("<i8").tobytes() + plan.offsets.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "8f9c5a15da3131b2"


def test_batch_mates_change_from_pass_to_pass_and_from_epoch_to_epoch() -> None:
    caption_image = np.repeat(np.arange(500), 5)

    def pairs_that_met(epoch: int) -> tuple[set[tuple[int, int]], int]:
        plan = batch_plan(caption_image, 25, seed=0, epoch=epoch)
        met = [
            (a, b)
            for index in range(plan.steps)
            for images in [sorted(plan.step(index)[0].tolist())]
            for position, a in enumerate(images)
            for b in images[position + 1 :]
        ]
        return set(met), len(met)

    first, meetings = pairs_that_met(0)
    second, _ = pairs_that_met(1)
    chance = meetings / (500 * 499 / 2)
    # Pairs drawn independently would meet again about as often as any pair meets.
    assert 1 - len(first) / meetings < 2 * chance
    assert len(first & second) / len(first) < 2 * chance


def test_every_caption_is_as_likely_early_as_late() -> None:
    counts = np.resize([5, 5, 5, 1, 7, 2], 300)
    caption_image = np.repeat(np.arange(300), counts)
    early = np.zeros(len(caption_image))
    epochs = 60
    for epoch in range(epochs):
        plan = batch_plan(caption_image, 20, seed=1, epoch=epoch)
        early += step_of_caption(plan, len(caption_image)) < plan.steps / 2
    for count in (1, 2, 5, 7):
        assert early[counts[caption_image] == count].mean() / epochs == pytest.approx(0.5, abs=0.02)


def test_captions_of_an_image_are_spread_over_the_epoch() -> None:
    plan = batch_plan(np.repeat(np.arange(400), 5), 20, seed=0, epoch=0)
    fifth = (step_of_caption(plan, 2000) * 5 // plan.steps).reshape(400, 5)
    spread = (np.sort(fifth, axis=1) == np.arange(5)).all(axis=1)
    # Independent draws would give 5! / 5^5 = 4 % such images; those dealt over the end of a round may miss it.
    assert spread.mean() > 0.9


def test_captions_that_would_repeat_an_image_are_left_out_and_change_with_the_epoch() -> None:
    caption_image = np.repeat(np.arange(10), 5)
    left_out = []
    for epoch in range(8):
        plan = batch_plan(caption_image, 20, seed=0, epoch=epoch)
        assert (plan.steps, plan.left_out) == (3, 20)
        left_out.append(frozenset(range(50)) - set(plan.caption_rows.tolist()))
    assert len(set(left_out)) == 8
    assert frozenset.union(*left_out) == frozenset(range(50))


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least one caption"):
        batch_plan(np.array([], dtype=np.int64), 4, seed=0, epoch=0)
    with pytest.raises(ShapeError, match="batch_size"):
        batch_plan(np.array([0, 1]), 0, seed=0, epoch=0)
    plan = batch_plan(np.array([0, 1]), 2, seed=0, epoch=0)
    with pytest.raises(ShapeError, match="steps 0 to 0"):
        plan.step(1)
    with pytest.raises(ShapeError, match="rank 2 of 2"):
        plan.slice(0, 2, 2)
