from __future__ import annotations

import numpy as np
import pytest
import torch

from bcls_core.errors import InputError, ShapeError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth
from bcls_core.metrics.coco_rankings import both_ranks, ordered


@pytest.fixture
def small(small_coco):
    return small_coco(20, 3)


@pytest.fixture
def truth(small):
    return CocoGroundTruth.load(small.folder)


@pytest.fixture
def rankings(small):
    generator = np.random.default_rng(1)
    images, captions, *_ = small.rows(generator)
    return small.rankings(generator.random((len(images), len(captions))), images, captions)


FORMS = [
    list,
    tuple,
    np.array,
    lambda ids: np.array(ids, np.uint32),
    lambda ids: np.array(ids, np.int32)[::1],
    lambda ids: np.array(ids + ids)[: len(ids)],
    torch.tensor,
    lambda ids: [np.int64(i) for i in ids],
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["coco", "cxc", "eccv"])
def test_ranks_are_places_in_the_list(small, truth, rankings, form, name):
    given = [{np.int64(query): form(ids) for query, ids in part.items()} for part in rankings]
    found = both_ranks(*given, truth, getattr(truth, name))
    for direction, ranks, part in zip(("i2t", "t2i"), found, rankings, strict=True):
        relevance = getattr(getattr(truth, name), direction)
        queries, gallery = (truth.images, truth.captions) if direction == "i2t" else (truth.captions, truth.images)
        expected = [
            part[int(queries.values[query])].index(int(gallery.values[entry]))
            for query, entry in zip(relevance.positives.query, relevance.positives.entries, strict=True)
        ]
        assert ranks.tolist() == expected


def test_order_and_ranks_are_inverses(truth, rankings):
    seen = 0
    for query, order, ranks in ordered("t2i", rankings[1], truth, truth.eccv.t2i.asked):
        assert truth.images.values[order].tolist() == rankings[1][int(truth.captions.values[query])]
        assert ranks[order].tolist() == list(range(len(truth.images)))
        seen += 1
    assert seen == len(truth.eccv.t2i.asked)


def run(truth, i2t, t2i, name="eccv"):
    return both_ranks(i2t, t2i, truth, getattr(truth, name))


def test_what_is_not_asked_may_be_absent_or_wrong(small, truth, rankings):
    i2t, t2i = rankings
    fewer = {query: i2t[query] for query in small.answers["eccv"]["i2t"]}
    more = t2i | {query: "nothing" for query in t2i if query not in small.answers["eccv"]["t2i"]} | {10**12: []}
    for first, second in zip(run(truth, fewer, more), run(truth, i2t, t2i), strict=True):
        assert first.tolist() == second.tolist()


def test_missing_queries_are_counted_and_named(small, truth, rankings):
    i2t, t2i = rankings
    asked = sorted(small.answers["eccv"]["i2t"])
    left = {query: ids for query, ids in i2t.items() if query not in asked[:2]}
    with pytest.raises(InputError, match=rf"i2t: 2 of the {len(asked)} images .* have no ranking, {asked[0]} for one"):
        run(truth, left, t2i)
    with pytest.raises(InputError, match=r"t2i: .* none is given"):
        run(truth, i2t, {})
    texts = {str(query): ids for query, ids in i2t.items()}
    with pytest.raises(InputError, match=rf"the first of those given is '{next(iter(i2t))}'.* as a whole number"):
        run(truth, texts, t2i)
    with pytest.raises(InputError, match="i2t: list, expected a dictionary"):
        run(truth, list(i2t.values()), t2i)


def test_swapped_directions_are_refused(truth, rankings):
    with pytest.raises(InputError, match=r"i2t: .* have no ranking"):
        run(truth, *reversed(rankings), name="coco")


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda ids: [*ids[:-1], 96_001],
            InputError,
            r"2 of \d+ rankings rank other .*1 of \d+ are unknown, such as 96001",
        ),
        (lambda ids: [96_001, *ids], InputError, r"1 of \d+ are unknown, such as 96001"),
        (lambda ids: [*ids[:-1], -1], InputError, "unknown, such as -1"),
        (lambda ids: [*ids[:-1], 2**62], InputError, "unknown, such as 4611686018427387904"),
        (lambda ids: np.array([*ids[:-1], 2**63], np.uint64), InputError, "unknown, such as 9223372036854775808"),
        (lambda ids: ids[:-1], InputError, r"2 of \d+ rankings are shorter than the gallery.* \d+ of \d+\."),
        (lambda ids: ids[:10], InputError, r"changes R-Precision.*: 10 of \d+\."),
        (lambda _: [], InputError, "shorter than the gallery"),
        (lambda ids: ids[:-1] + ids[:1], InputError, r"2 of \d+ rankings rank a (image|caption) twice"),
        (lambda ids: ids + ids[-1:], InputError, "twice"),
        (lambda ids: np.array(ids, float), ShapeError, r"float64 of shape"),
        (lambda ids: [ids], ShapeError, r"of shape \(1, "),
        (lambda ids: [str(i) for i in ids], ShapeError, "<U"),
        (lambda ids: [True] * len(ids), ShapeError, "bool"),
        (lambda ids: [ids, ids[:1]], ShapeError, "no row of whole numbers"),
        (lambda ids: [*ids[:-1], 2**70], ShapeError, "object"),
        (lambda ids: set(ids), ShapeError, "object"),
        (lambda _: None, ShapeError, "object"),
    ],
)
def test_rankings_that_cannot_be_are_counted_and_named(small, truth, rankings, direction, change, error, message):
    name = ("i2t", "t2i")[direction]
    asked = sorted(small.answers["eccv"][name])
    if name == "t2i":
        asked = [caption for caption in small.captions if caption in set(asked)]
    given = [dict(part) for part in rankings]
    for query in asked[1:3]:
        given[direction][query] = change(given[direction][query])
    with pytest.raises(error, match=f"{name}: .*{message}") as caught:
        run(truth, *given)
    assert str(asked[1]) in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_overlapping_foreign_id_space_is_refused_for_its_first_stranger(small, truth, rankings):
    i2t, t2i = rankings
    known, gallery = set(small.captions), len(small.captions)
    query = sorted(small.answers["eccv"]["i2t"])[-1]
    stranger = next(i for i in range(9) if i not in known)
    foreign = [*small.captions[1:], stranger]
    with pytest.raises(InputError, match=rf"1 of \d+ rankings rank other .*That of image {query}: 1 of {gallery} are"):
        run(truth, i2t | {query: foreign}, t2i)


def test_nothing_given_is_changed(truth, rankings):
    given = [{query: np.array(ids) for query, ids in part.items()} for part in rankings]
    for part in given:
        for ids in part.values():
            ids.setflags(write=False)
    run(truth, *given)
    assert [{query: ids.tolist() for query, ids in part.items()} for part in given] == list(rankings)
