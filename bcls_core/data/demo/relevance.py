"""True graded relevance: how much two scenes have in common, known because the scenes were made.

A scene is written down as a set of facts (`scene_facts`). Relevance is the weighted share of facts that two scenes have
in common, the weighted Jaccard index

    relevance(a, b) = sum of w(f) over f in A and B / sum of w(f) over f in A or B.

It is symmetric, lies in [0, 1], and is 1 for scenes with the same graph and for no others: every weight is positive,
and the "object" facts together with the background determine the graph. The relevance of an image and a caption is that
of the image's scene and the scene which the caption was written for.

This is truth for judging labels and models. It is no label: nothing that trains may read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bcls_core.data.demo.scenes import Scene
from bcls_core.data.demo.vocabulary import GROUP_OF
from bcls_core.errors import CorpusError

WEIGHTS: dict[str, int] = {
    "background": 6,
    "category": 6,
    "group": 2,
    "colour": 3,
    "hue": 2,
    "size": 2,
    "column": 1,
    "level": 1,
    "object": 1,
    "relation": 3,
}
"""What a fact of each kind counts. Whole numbers, so that sums are exact in any order.

What is there counts most (category and its group), then where (background), how it looks, and how things stand to each
other; exact places count least. "colour" is the colour of a category, "hue" that of anything.
"""


def scene_facts(scene: Scene) -> list[str]:
    """The facts of a scene, sorted, as "kind: text"; a fact that holds twice is there a second time as "... (2)".

    Two scenes have equal facts exactly if they have the same background and the same objects (category, colour, size,
    column, level), and so the same relations; small shifts within a column, pose and tint make no difference.
    """
    facts = [f"background: {scene.background}"]
    facts += [f"hue: {colour}" for colour in {item.colour for item in scene.objects}]
    for item in scene.objects:
        facts += [
            f"category: {item.category}",
            f"group: {GROUP_OF[item.category]}",
            f"colour: {item.colour} {item.category}",
            f"size: {item.size} {item.category}",
            f"column: {item.category} {item.column}",
            f"level: {item.category} {item.level}",
            f"object: {item.size} {item.colour} {item.category} {item.column} {item.level}",
        ]
    for relation in scene.relations:
        a, b = scene.objects[relation.subject], scene.objects[relation.object]
        ends = [a.category, b.category]
        if relation.predicate == "next to":
            ends.sort()
        facts.append(f"relation: {ends[0]} {relation.predicate} {ends[1]}")
    told: list[str] = []
    for fact, count in Counter(facts).items():
        told += [fact, *[f"{fact} ({number})" for number in range(2, count + 1)]]
    return sorted(told)


def relevance(a: Scene, b: Scene) -> float:
    """Relevance of two scenes, in [0, 1]."""
    return float(relevance_from_facts([scene_facts(a)], [scene_facts(b)])[0, 0])


def relevance_from_facts(a: Sequence[Sequence[str]], b: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """(len(a), len(b)) relevance of scenes given by their facts.

    Raises:
        CorpusError: a fact is of a kind that has no weight.
    """
    ids: dict[str, int] = {}
    for facts in (*a, *b):
        for fact in facts:
            ids.setdefault(fact, len(ids))
    weights = np.array([_weight(fact) for fact in ids], dtype=np.int64)
    rows, columns = _membership(a, ids), _membership(b, ids)
    common = (rows.multiply(weights).tocsr() @ columns.T).toarray()
    either = (rows @ weights)[:, None] + (columns @ weights)[None, :] - common
    shares: NDArray[np.float64] = common / np.maximum(either, 1)
    return shares.astype(np.float32)


def _weight(fact: str) -> int:
    kind = fact.split(":", 1)[0]
    if kind not in WEIGHTS:
        raise CorpusError(
            f"scene fact {fact!r} is of unknown kind {kind!r}, expected one of {', '.join(WEIGHTS)}; "
            "the corpus was made by another version: ingest it again"
        )
    return WEIGHTS[kind]


def _membership(scenes: Sequence[Sequence[str]], ids: dict[str, int]) -> sparse.csr_matrix:
    indices = [ids[fact] for facts in scenes for fact in facts]
    ends = np.cumsum([0, *[len(facts) for facts in scenes]])
    ones = np.ones(len(indices), dtype=np.int64)
    return sparse.csr_matrix((ones, indices, ends), shape=(len(scenes), len(ids)))
