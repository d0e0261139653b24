from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.data.demo.scenes import Scene, SceneObject, make_scene
from bcls_core.data.demo.vocabulary import BACKGROUNDS, CATEGORIES, COLOURS, COLUMNS, SIZES


def _relation_of_boxes(a: SceneObject, b: SceneObject) -> str | None:
    """What the drawn boxes alone say about a pair, in one direction."""
    p, q = a.box, b.box
    share_a_column = max(p.left, q.left) < min(p.right, q.right) and abs(a.x - b.x) < 0.1
    if not share_a_column:
        return "left of" if a.x < b.x - 0.1 else None
    if abs(p.bottom - q.top) < 1e-9:
        return "on"
    return "above" if p.bottom < q.top else None


@given(st.integers(0, 2**40), st.sampled_from(["train", "val", "test"]), st.integers(0, 10**6))
def test_a_scene_is_a_function_of_seed_split_and_index(seed: int, split: str, index: int) -> None:
    assert make_scene(seed, split, index) == make_scene(seed, split, index)


def test_scenes_do_not_depend_on_the_order_they_are_made_in() -> None:
    order = np.random.default_rng(0).permutation(60).tolist()
    shuffled = {index: make_scene(5, "val", index) for index in order}
    assert [shuffled[index] for index in range(60)] == [make_scene(5, "val", index) for index in range(60)]


def test_seed_split_and_index_all_matter() -> None:
    base = [make_scene(5, "val", index) for index in range(20)]
    for others in (
        [make_scene(6, "val", index) for index in range(20)],
        [make_scene(5, "test", index) for index in range(20)],
        [make_scene(5, "val", index + 20) for index in range(20)],
    ):
        assert not set(base) & set(others)


def test_objects_lie_inside_the_picture_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        for i, item in enumerate(scene.objects):
            box = item.box
            assert 0 <= box.left < box.right <= 1
            assert 0 <= box.top < box.bottom <= 1
            for other in scene.objects[i + 1 :]:
                q = other.box
                overlap = (
                    min(box.right, q.right) - max(box.left, q.left),
                    min(box.bottom, q.bottom) - max(box.top, q.top),
                )
                assert min(overlap) < 1e-9


def test_relations_are_those_of_the_boxes(scenes: list[Scene]) -> None:
    seen = Counter[str]()
    for scene in scenes:
        objects = scene.objects
        expected = {
            (i, relation, j)
            for i, a in enumerate(objects)
            for j, b in enumerate(objects)
            if i != j and (relation := _relation_of_boxes(a, b))
        }
        stated = {(r.subject, r.predicate, r.object) for r in scene.relations if r.predicate != "next to"}
        assert stated == expected
        assert len(stated) == len(objects) * (len(objects) - 1) // 2
        seen.update(relation for _, relation, _ in stated)
    assert min(seen["left of"], seen["above"], seen["on"]) > 60


def test_neighbours_stand_side_by_side(scenes: list[Scene]) -> None:
    neighbours = [(scene, r) for scene in scenes for r in scene.relations if r.predicate == "next to"]
    assert len(neighbours) > 60
    for scene, relation in neighbours:
        a, b = scene.objects[relation.subject], scene.objects[relation.object]
        assert 0.2 < b.x - a.x < 0.36
        assert min(a.box.bottom, b.box.bottom) > max(a.box.top, b.box.top)
        assert not [c for c in scene.objects if a.x + 0.1 < c.x < b.x - 0.1]


def test_columns_and_levels_are_true_of_the_positions(scenes: list[Scene]) -> None:
    for item in (item for scene in scenes for item in scene.objects):
        assert item.column == COLUMNS[int(item.x * 3)]
        if item.level == "ground":
            assert item.y > 0.8
        if item.level == "air":
            assert item.y < 0.5


def test_only_what_is_on_top_rests_on_something(scenes: list[Scene]) -> None:
    for scene in scenes:
        riders = [item for item in scene.objects if item.level == "top"]
        assert len(riders) == sum(relation.predicate == "on" for relation in scene.relations) <= 1


def test_everything_occurs(scenes: list[Scene]) -> None:
    items = [item for scene in scenes for item in scene.objects]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}
    for kinds, values in (
        (CATEGORIES, Counter(item.category for item in items)),
        (COLOURS, Counter(item.colour for item in items)),
        (SIZES, Counter(item.size for item in items)),
    ):
        assert set(values) == set(kinds)
        assert min(values.values()) > 0.4 * len(items) / len(kinds)
