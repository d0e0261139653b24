from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.data.demo.relevance import WEIGHTS, relevance, relevance_from_facts, scene_facts
from bcls_core.data.demo.scenes import Scene, SceneObject, make_scene
from bcls_core.data.demo.vocabulary import GROUP_OF
from bcls_core.errors import CorpusError

SCENES = st.builds(make_scene, st.integers(0, 50), st.sampled_from(["train", "test"]), st.integers(0, 500))


def _graph(scene: Scene) -> tuple[object, ...]:
    nodes = {(o.category, o.colour, o.size, o.column, o.level) for o in scene.objects}
    return scene.background, frozenset(nodes)


def _oracle(a: Scene, b: Scene) -> float:
    """The definition on multisets of tuples, weights written out again."""

    def facts(scene: Scene) -> Counter[tuple[object, ...]]:
        found: Counter[tuple[object, ...]] = Counter([(6, scene.background)])
        found.update({(2, "hue", o.colour) for o in scene.objects})
        for o in scene.objects:
            found[6, "category", o.category] += 1
            found[2, "group", GROUP_OF[o.category]] += 1
            found[3, o.category, o.colour] += 1
            found[2, o.category, o.size] += 1
            found[1, o.category, o.column] += 1
            found[1, o.category, o.level] += 1
            found[1, o.category, o.colour, o.size, o.column, o.level] += 1
        for r in scene.relations:
            pair = (scene.objects[r.subject].category, scene.objects[r.object].category)
            found[3, r.predicate, tuple(sorted(pair)) if r.predicate == "next to" else pair] += 1
        return found

    p, q = facts(a), facts(b)
    weigh = lambda facts: sum(int(str(fact[0])) * count for fact, count in facts.items())  # noqa: E731
    return weigh(p & q) / weigh(p | q)


@given(SCENES, SCENES)
def test_relevance_is_the_weighted_share_of_common_facts(a: Scene, b: Scene) -> None:
    assert relevance(a, b) == pytest.approx(_oracle(a, b), abs=1e-6)


@given(SCENES, SCENES)
def test_relevance_is_symmetric_and_bounded(a: Scene, b: Scene) -> None:
    assert relevance(a, b) == relevance(b, a)
    assert 0.0 <= relevance(a, b) <= 1.0


@given(SCENES, SCENES)
def test_only_equal_graphs_are_fully_relevant(a: Scene, b: Scene) -> None:
    assert relevance(a, a) == 1.0
    assert (relevance(a, b) == 1.0) == (_graph(a) == _graph(b))


@given(SCENES, st.data())
def test_any_single_change_is_noticed_but_a_small_shift_is_not(scene: Scene, data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(scene.objects) - 1))
    item = scene.objects[where]

    def changed(**fields: object) -> Scene:
        return replace(scene, objects=(*scene.objects[:where], replace(item, **fields), *scene.objects[where + 1 :]))

    assert relevance(scene, changed(x=item.x + 0.001, y=item.y - 0.001)) == 1.0
    recoloured = relevance(scene, changed(colour="pink" if item.colour != "pink" else "red"))
    resized = relevance(scene, changed(size="small" if item.size != "small" else "large"))
    assert 0.0 < recoloured < resized < 1.0
    assert 0.0 < relevance(scene, replace(scene, background="snow" if scene.background != "snow" else "city")) < 1.0


def test_swapping_colours_between_twins_is_noticed() -> None:
    def twins(first: str, second: str) -> Scene:
        return Scene(
            "snow",
            (
                SceneObject("cat", first, "small", "left", "ground", 0.2, 0.9),  # type: ignore[arg-type]
                SceneObject("cat", second, "large", "right", "ground", 0.8, 0.9),  # type: ignore[arg-type]
            ),
        )

    assert 0.9 < relevance(twins("red", "blue"), twins("blue", "red")) < 1.0
    assert relevance(twins("red", "red"), twins("red", "red")) == 1.0
    assert relevance(twins("red", "red"), twins("red", "blue")) < 1.0


def test_order_of_objects_does_not_matter(scenes: list[Scene]) -> None:
    for scene in scenes[:100]:
        assert scene_facts(replace(scene, objects=scene.objects[::-1])) == scene_facts(scene)


def test_the_matrix_equals_its_cells(scenes: list[Scene]) -> None:
    rows, columns = scenes[:15], scenes[10:40]
    matrix = relevance_from_facts([scene_facts(s) for s in rows], [scene_facts(s) for s in columns])
    assert matrix.shape == (15, 30)
    assert matrix.dtype == np.float32
    assert np.array_equal(matrix, np.array([[relevance(a, b) for b in columns] for a in rows], dtype=np.float32))


def test_relevance_is_graded(scenes: list[Scene]) -> None:
    facts = [scene_facts(scene) for scene in scenes[:300]]
    matrix = relevance_from_facts(facts, facts)
    off_diagonal = matrix[~np.eye(300, dtype=bool)]
    assert len(np.unique(off_diagonal)) > 300
    assert (off_diagonal > 0).mean() > 0.6
    assert 0.001 < (off_diagonal > 0.4).mean() < 0.05


def test_every_kind_of_fact_has_a_weight_and_is_used(scenes: list[Scene]) -> None:
    kinds = {fact.split(":")[0] for scene in scenes for fact in scene_facts(scene)}
    assert kinds == set(WEIGHTS)


def test_a_fact_of_unknown_kind_is_an_error() -> None:
    with pytest.raises(CorpusError, match="unknown kind 'mood'"):
        relevance_from_facts([["mood: cheerful"]], [["background: snow"]])
