"""Related batches keep every promise of the random plan, and bring together what is related."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.config import RelatedBatches
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import ShapeError, StoreError
from bcls_core.similarity import LabelSetRelevance, load_gaps
from bcls_core.training.history import read_history
from bcls_core.training.loop import train
from bcls_core.training.plan import BatchPlan, batch_plan
from bcls_core.training.related import Neighbours, planner, related_plan
from bcls_core.workers import Workers


def of_lists(lists: list[list[int]]) -> Neighbours:
    """Neighbours whose ids are row numbers."""
    rows = np.arange(len(lists))
    lengths = np.array([len(each) for each in lists], dtype=np.int64)
    return Neighbours.from_ids(rows, rows, lengths, np.array(list(chain(*lists)), dtype=np.int64))


def clusters(images: int, size: int, captions: int = 5) -> tuple[np.ndarray, Neighbours, np.ndarray]:
    """A corpus of clusters of `size` images, all captions neighbours of their own cluster; the cluster of each caption.

    The other images of the cluster come in turn, with a caption drawn at random.
    """
    generator = np.random.default_rng(0)
    caption_image = np.repeat(np.arange(images), captions)
    lists = []
    for image in caption_image:
        first = image // size * size
        others = [other for other in range(first, first + size) if other != image]
        lists.append([int(other * captions + generator.integers(captions)) for other in generator.permutation(others)])
    return caption_image, of_lists(lists), caption_image // size


def mates(plan: BatchPlan, cluster: np.ndarray) -> list[np.ndarray]:
    """Per step: of each caption, how many others of its cluster are there."""
    found = []
    for step in range(plan.steps):
        mine = cluster[plan.step(step)[1]]
        found.append((mine[:, None] == mine[None, :]).sum(axis=1) - 1)
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, Neighbours]:
    """1 to 7 captions an image, batches up to beyond the number of images, neighbours of every bad kind."""
    counts = draw(st.lists(st.integers(1, 7), min_size=1, max_size=30))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    caption_image = np.repeat(3 * np.arange(len(counts)), counts)
    if draw(st.booleans()):
        caption_image = generator.permutation(caption_image)
    captions = len(caption_image)
    batch_size = draw(st.integers(1, 12) | st.integers(max(1, len(counts) - 3), len(counts) + 5))
    pool = {
        "half unknown": np.arange(2 * captions),
        "one image": np.flatnonzero(caption_image == caption_image[0]),
        "few": np.arange(min(captions, 9)),
        "nobody": np.zeros(0, np.int64),
    }[draw(st.sampled_from(["half unknown", "one image", "few", "nobody"]))]
    longest = min(len(pool), draw(st.integers(0, 9)))
    lists = [generator.permutation(pool)[: generator.integers(longest + 1)].tolist() for _ in range(captions)]
    return caption_image, batch_size, of_lists(lists)


@given(cases(), st.floats(0, 1), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_a_related_plan_keeps_the_promises_of_a_random_one(
    case: tuple[np.ndarray, int, Neighbours], share: float, most: int, seed: int, epoch: int
) -> None:
    caption_image, batch_size, neighbours = case
    before = caption_image.copy(), neighbours.rows.copy()
    plan = related_plan(caption_image, batch_size, neighbours, share=share, most=most, seed=seed, epoch=epoch)
    random = batch_plan(caption_image, batch_size, seed=seed, epoch=epoch)
    steps = -(-len(caption_image) // batch_size)
    counts = np.unique(caption_image, return_counts=True)[1]
    assert plan.left_out == np.maximum(counts - steps, 0).sum() == len(caption_image) - plan.used
    assert plan.steps == steps
    assert len(np.unique(plan.caption_rows)) == plan.used
    np.testing.assert_array_equal(np.sort(plan.caption_rows), np.sort(random.caption_rows))
    np.testing.assert_array_equal(caption_image[plan.caption_rows], plan.image_rows)
    sizes = np.array([len(plan.step(index)[0]) for index in range(steps)])
    assert sizes.max() <= batch_size
    assert sizes.max() - sizes.min() <= 1
    for index in range(steps):
        images = plan.step(index)[0]
        assert len(np.unique(images)) == len(images)
    assert 0 <= plan.grouped <= np.floor(share * sizes).sum()
    again = related_plan(
        caption_image.astype(np.int32), batch_size, neighbours, share=share, most=most, seed=seed, epoch=epoch
    )
    np.testing.assert_array_equal(again.caption_rows, plan.caption_rows)
    np.testing.assert_array_equal(caption_image, before[0])
    np.testing.assert_array_equal(neighbours.rows, before[1])


def test_without_neighbours_or_share_it_is_the_random_plan() -> None:
    caption_image, neighbours, _ = clusters(60, 4)
    random = batch_plan(caption_image, 16, seed=3, epoch=2)
    nobody = of_lists([[] for _ in caption_image])
    for plan in (
        related_plan(caption_image, 16, neighbours, share=0.0, most=3, seed=3, epoch=2),
        related_plan(caption_image, 16, nobody, share=1.0, most=3, seed=3, epoch=2),
    ):
        assert plan.grouped == 0
        np.testing.assert_array_equal(plan.caption_rows, random.caption_rows)
        np.testing.assert_array_equal(plan.image_rows, random.image_rows)


def test_seed_and_epoch_determine_the_plan() -> None:
    caption_image, neighbours, _ = clusters(60, 4)

    def rows(seed: int, epoch: int) -> list[int]:
        return related_plan(
            caption_image, 16, neighbours, share=0.5, most=3, seed=seed, epoch=epoch
        ).caption_rows.tolist()

    assert rows(3, 2) == rows(3, 2)
    assert len({tuple(rows(seed, epoch)) for seed, epoch in [(3, 2), (3, 3), (4, 2), (2, 3)]}) == 4


def test_the_plan_of_a_seed_never_changes() -> None:
    """Pinned: a change here changes every training with related batches, so it needs a new algorithm version."""
    caption_image = np.repeat(np.arange(100), 5)
    neighbours = of_lists([[(7 * caption + 13 * place) % 500 for place in range(6)] for caption in range(500)])
    plan = related_plan(caption_image, 32, neighbours, share=0.5, most=4, seed=7, epoch=1)
    digest = hashlib.sha256(plan.caption_rows.astype("<i8").tobytes() + plan.offsets.astype("<i8").tobytes())
    assert (digest.hexdigest()[:16], plan.grouped) == ("1c324cfe2227e7e6", 239)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_share_says_how_much_of_each_step_stands_in_groups(share: float) -> None:
    caption_image, neighbours, cluster = clusters(2000, 4)
    plan = related_plan(caption_image, 40, neighbours, share=share, most=3, seed=0, epoch=0)
    assert plan.grouped / plan.used == pytest.approx(share, abs=0.03)
    with_mates = np.array([(found > 0).mean() for found in mates(plan, cluster)])
    # 39 others of 1,999 images, three of which are mates: 6 % have one by chance.
    assert with_mates.mean() == pytest.approx(share, abs=0.07)
    assert with_mates.min() > share - 0.2, "every step has its share"


def test_most_says_how_many_neighbours_join_a_caption() -> None:
    caption_image, neighbours, cluster = clusters(2000, 8)
    for most in (1, 3, 7):
        plan = related_plan(caption_image, 40, neighbours, share=0.2, most=most, seed=0, epoch=0)
        found = np.concatenate(mates(plan, cluster))
        assert np.bincount(found[found > 0])[1:].argmax() + 1 == most, "most groups are full"


def test_the_nearest_neighbours_come_first() -> None:
    images = 1000
    second = np.random.default_rng(0).permutation(images)
    neighbours = of_lists([[image ^ 1, int(second[image])] for image in range(images)])
    plan = related_plan(np.arange(images), 50, neighbours, share=0.5, most=1, seed=0, epoch=0)
    nearest = sum((found > 0).sum() for found in mates(plan, np.arange(images) // 2))
    assert nearest > 0.9 * plan.grouped


def test_another_caption_of_a_neighbours_image_joins_where_the_neighbour_cannot() -> None:
    caption_image = np.repeat(np.arange(200), 5)
    hub = of_lists([[3] for _ in caption_image])
    plan = related_plan(caption_image, 20, hub, share=1.0, most=4, seed=0, epoch=0)
    assert plan.grouped == 10, "each of the five captions of the hub's image joins one caption"


def test_a_caption_that_found_nobody_can_still_join_another() -> None:
    odd_ones_know_the_even = of_lists([[image - 1] if image % 2 else [] for image in range(400)])
    plan = related_plan(np.arange(400), 20, odd_ones_know_the_even, share=1.0, most=1, seed=0, epoch=0)
    assert plan.grouped > 0.7 * 400


def test_late_steps_hold_as_much_that_is_related_as_early_ones() -> None:
    caption_image, neighbours, cluster = clusters(1000, 5)
    halves = np.zeros(2)
    for epoch in range(10):
        plan = related_plan(caption_image, 40, neighbours, share=0.8, most=4, seed=0, epoch=epoch)
        means = [found.mean() for found in mates(plan, cluster)]
        halves += [np.mean(means[: plan.steps // 2]), np.mean(means[plan.steps // 2 :])]
    assert halves[0] == pytest.approx(halves[1], rel=0.02)


def test_steps_share_what_is_related_where_it_does_not_suffice() -> None:
    caption_image, neighbours, cluster = clusters(1000, 5)
    lists = np.split(neighbours.rows, neighbours.starts[1:-1])
    related = caption_image < 400
    few = of_lists([own.tolist() if has else [] for own, has in zip(lists, related, strict=True)])
    plan = related_plan(caption_image, 40, few, share=0.8, most=4, seed=0, epoch=0)
    assert plan.grouped == pytest.approx(related.sum(), rel=0.01)
    with_mates = np.array([(found > 0).mean() for found in mates(plan, np.where(related, cluster, -1 - caption_image))])
    assert with_mates.min() > 0.2, "no step is left with nothing"
    assert with_mates.max() < 0.6, "no step takes its whole share"


def test_every_caption_is_as_likely_early_as_late() -> None:
    caption_image, neighbours, _ = clusters(300, 5)
    early = np.zeros(len(caption_image))
    epochs = 60
    for epoch in range(epochs):
        plan = related_plan(caption_image, 20, neighbours, share=0.5, most=4, seed=1, epoch=epoch)
        early[plan.caption_rows[: plan.offsets[plan.steps // 2]]] += 1
    # Of 60 fair tosses each, the share of heads has a standard deviation of 0.065.
    assert early.mean() / epochs == pytest.approx(0.5, abs=0.02)
    assert np.abs(early / epochs - 0.5).max() < 5 * 0.065


@pytest.mark.parametrize("seed", range(20))
def test_lists_of_ids_become_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ids = generator.permutation(np.arange(-12, 13))[: generator.integers(1, 20)].tolist()
    owners = generator.permutation(np.arange(-15, 16))[: generator.integers(25)].tolist()
    table = {owner: generator.integers(-15, 16, generator.integers(7)).tolist() for owner in owners}
    found = Neighbours.from_ids(
        np.array(ids),
        np.array(owners, dtype=np.int64),
        np.array([len(each) for each in table.values()], dtype=np.int64),
        np.array(list(chain(*table.values())), dtype=np.int64),
    )
    expected = [[ids.index(other) for other in table.get(id_, []) if other in ids] for id_ in ids]
    assert [part.tolist() for part in np.split(found.rows, found.starts[1:-1])] == expected
    assert (found.starts[0], found.starts[-1]) == (0, len(found.rows))


@pytest.mark.parametrize("split", ["train", "val"])
def test_neighbours_are_those_of_the_label_set(ground: Any, split: str) -> None:
    rows = CorpusRows(ground.corpus, split)
    found = Neighbours.read(ground.labels, "cider", rows)
    row_of = {int(caption_id): row for row, caption_id in enumerate(rows.caption_ids)}
    table = pa.concat_tables(ground.labels.scan("neighbours/cider"))
    lists = dict(zip(table["id"].to_pylist(), table["ids"].to_pylist(), strict=True))
    assert max(map(len, lists.values())) == 8
    for caption_id, row in row_of.items():
        own = found.rows[found.starts[row] : found.starts[row + 1]]
        assert own.tolist() == [row_of[other] for other in lists[caption_id]]
    with pytest.raises(StoreError, match="neighbours/mpnet"):
        Neighbours.read(ground.labels, "mpnet", rows)


def test_settings_choose_the_plan(ground: Any) -> None:
    rows = CorpusRows(ground.corpus, "train")
    plain = ground.recipe.train
    related = plain.model_copy(
        update={"seed": 5, "batches": RelatedBatches(kind="related", measure="cider", share=0.4, neighbours=2)}
    )
    random = batch_plan(rows.caption_image, plain.batch_size, seed=plain.seed, epoch=3)
    expected = related_plan(
        rows.caption_image,
        plain.batch_size,
        Neighbours.read(ground.labels, "cider", rows),
        share=0.4,
        most=2,
        seed=5,
        epoch=3,
    )
    for chosen, plan in ((plain, random), (related, expected)):
        found = planner(chosen, rows, ground.labels)(3)
        np.testing.assert_array_equal(found.caption_rows, plan.caption_rows)
        assert found.grouped == plan.grouped


def test_labels_differ_by_more_than_the_gap_more_often(ground: Any) -> None:
    rows = CorpusRows(ground.corpus, "train")
    relevance = LabelSetRelevance(ground.labels, "cider", "train")
    gap = load_gaps(ground.labels)["cider"].resolve("p90")

    def above(plan: BatchPlan) -> float:
        shares = []
        for step in range(plan.steps):
            images, captions = plan.step(step)
            labels = relevance.rows(
                [rows.caption_ids[rows.captions_of(row)] for row in images], rows.caption_ids[captions]
            )
            shares.append((np.abs(labels[:, :, None] - labels[:, None, :]) > gap).mean())
        return float(np.mean(shares))

    neighbours = Neighbours.read(ground.labels, "cider", rows)
    for epoch in range(3):
        random = above(batch_plan(rows.caption_image, 16, seed=0, epoch=epoch))
        half, whole = (
            above(related_plan(rows.caption_image, 16, neighbours, share=share, most=7, seed=0, epoch=epoch))
            for share in (0.5, 1.0)
        )
        assert random < half < whole


def test_a_stopped_training_with_related_batches_continues_exactly(ground: Any) -> None:
    batches = RelatedBatches(kind="related", measure="cider", share=0.5, neighbours=3)

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    whole = ground.begin("related-whole", batches=batches, epochs=2)
    train(whole, Workers(), lambda *_: None)
    stopped = ground.begin("related-stopped", batches=batches, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Workers(), stop)
    train(stopped, Workers(), lambda *_: None)
    one, other = (
        job.draft.commit(fingerprint={"training": job.draft.version}, schema="training/1") for job in (whole, stopped)
    )
    assert read_history(one) == read_history(other)
    weights = "model/model.safetensors"
    assert one.local(weights).read_bytes() == other.local(weights).read_bytes()
    assert all(0.3 < epoch["train/grouped"] <= 0.5 for epoch in read_history(one).epochs[1:])


def test_bad_requests_are_refused() -> None:
    caption_image, neighbours, _ = clusters(8, 4)
    for share, most in [(1.1, 3), (-0.1, 3), (float("nan"), 3), (0.5, 0)]:
        with pytest.raises(ShapeError, match="share is"):
            related_plan(caption_image, 4, neighbours, share=share, most=most, seed=0, epoch=0)
    with pytest.raises(ShapeError, match="neighbours are of 40 captions, caption_image has 39"):
        related_plan(caption_image[1:], 4, neighbours, share=0.5, most=3, seed=0, epoch=0)
    with pytest.raises(ShapeError, match="batch_size"):
        related_plan(caption_image, 0, neighbours, share=0.5, most=3, seed=0, epoch=0)
    nobody = of_lists([])
    with pytest.raises(ShapeError, match="at least one caption"):
        related_plan(caption_image[:0], 4, nobody, share=0.5, most=3, seed=0, epoch=0)
