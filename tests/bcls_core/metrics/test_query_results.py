from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bcls_core.errors import InputError
from bcls_core.metrics import coherence, human_relevance, paired_bootstrap, rank_correlation, retrieval
from bcls_core.metrics.graded import graded_queries
from bcls_core.metrics.human import RatedPairs, rated_pairs
from bcls_core.metrics.query_results import QueryResults, compare, incomparable, recipe_intervals
from bcls_core.metrics.ranks import positives_of_captions
from bcls_core.metrics.retrieval import retrieval_ranks

IMAGES, CAPTIONS = 40, 130


def results(
    seed: int, skill: float = 1.0, *, image_ids=None, caption_ids=None, texts="0", relevances=None
) -> QueryResults:
    """A model that adds `skill` to the scores of own captions; the gallery is the same for every seed."""
    gallery = np.random.default_rng(0)
    caption_image = np.sort(np.concatenate([np.arange(IMAGES), gallery.integers(0, IMAGES, CAPTIONS - IMAGES)]))
    labels = gallery.random((IMAGES, CAPTIONS)).astype(np.float32)
    rated = gallery.integers(0, IMAGES, 90), gallery.integers(0, CAPTIONS, 90), gallery.integers(0, 4, 90)
    generator = np.random.default_rng(seed + 1)
    scores = generator.standard_normal((IMAGES, CAPTIONS)).astype(np.float32)
    scores[caption_image, np.arange(CAPTIONS)] += skill
    own = positives_of_captions(caption_image, IMAGES)
    i2t, t2i = graded_queries(scores, labels, own, ks=(10,))
    per_image, per_caption = retrieval_ranks(scores, caption_image)
    return QueryResults(
        [f"{row:04d}.jpg" for row in range(IMAGES)] if image_ids is None else image_ids,
        np.arange(CAPTIONS) + 7 if caption_ids is None else caption_ids,
        caption_image,
        texts,
        relevances or {"label/m": "a digest"},
        {"i2t/rank": per_image.astype(float), "label/m/i2t/kendall": i2t.kendall, "label/m/i2t/ncs10": i2t.gain[10]},
        {"t2i/rank": per_caption.astype(float), "label/m/t2i/kendall": t2i.kendall, "label/m/t2i/ncs10": t2i.gain[10]},
        {"expert": rated_pairs(scores[rated[0], rated[1]], rated[2], rated[0], caption_image[rated[1]])},
        {"sts": RatedPairs(generator.random(50), gallery.random(50), np.arange(50), 0)},
    )


def inputs_of(seed: int, skill: float = 1.0):
    gallery = np.random.default_rng(0)
    caption_image = np.sort(np.concatenate([np.arange(IMAGES), gallery.integers(0, IMAGES, CAPTIONS - IMAGES)]))
    labels = gallery.random((IMAGES, CAPTIONS)).astype(np.float32)
    rated = gallery.integers(0, IMAGES, 90), gallery.integers(0, CAPTIONS, 90), gallery.integers(0, 4, 90)
    scores = np.random.default_rng(seed + 1).standard_normal((IMAGES, CAPTIONS)).astype(np.float32)
    scores[caption_image, np.arange(CAPTIONS)] += skill
    return scores, labels, caption_image, rated


def test_metrics_are_those_of_the_functions_that_take_matrices():
    scores, labels, caption_image, rated = inputs_of(3)
    found = results(3).metrics()
    expected = dict(retrieval(scores, caption_image))
    expected |= {
        f"label/m/{name}": value
        for name, value in rank_correlation(scores, labels).items()
        if name.split("/")[1].startswith("kendall")
    }
    expected |= {
        f"label/m/{name}": value
        for name, value in coherence(scores, labels, caption_image, ks=[10]).items()
        if name.split("/")[1].startswith("ncs")
    }
    human = human_relevance(scores[rated[0], rated[1]], rated[2], rated[0], caption_image[rated[1]])
    expected |= {f"human/expert/{name}": human[name] for name in ("spearman", "per_image_spearman", "pairs")}
    expected |= {f"human/expert/{name}": human[name] for name in ("excluded", "images")}
    assert human["excluded"] > 0
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert set(found) - set(expected) == {"sts/sts/spearman", "sts/sts/pairs", "human/expert/missing"}


def test_every_figure_but_a_count_has_an_interval_around_it():
    results_ = results(3)
    metrics, intervals = results_.metrics(), results_.intervals()
    counts = {name for name in metrics if name.rsplit("_", 1)[-1] == "queries"}
    sizes = ("queries", "excluded", "missing", "pairs", "images")
    counts |= {name for name in metrics if name.rsplit("/", 1)[-1] in sizes}
    assert set(intervals) == set(metrics) - counts
    for name, found in intervals.items():
        assert found.estimate == metrics[name]
        assert found.low <= found.estimate <= found.high, name
    assert intervals["t2i/r1"].high - intervals["t2i/r1"].low > 5


def test_what_no_query_defines_is_left_out():
    given = results(3)
    nothing = np.full(IMAGES, np.nan)
    partly = QueryResults(
        given.image_ids,
        given.caption_ids,
        given.caption_image,
        given.texts,
        {},
        {"i2t/rank": nothing, "label/m/i2t/kendall": nothing},
        given.per_caption,
    )
    metrics = partly.metrics()
    assert "i2t/r1" not in metrics
    assert "rsum" not in metrics
    assert metrics["i2t/queries"] == 0
    assert metrics["label/m/i2t/kendall_queries"] == 0
    assert "t2i/r1" in partly.intervals()


def test_a_gallery_of_one_image_has_figures_and_no_intervals():
    one = QueryResults(
        ["a.jpg"], np.arange(3), np.zeros(3, np.int64), "0", {}, {"i2t/rank": np.zeros(1)}, {"t2i/rank": np.zeros(3)}
    )
    assert one.metrics()["rsum"] == 600
    assert one.intervals() == {}


def test_files_bring_back_everything():
    given = results(5)
    again = QueryResults.from_files(given.to_files())
    assert again.image_ids == given.image_ids
    assert again.metrics() == given.metrics()
    assert again.intervals() == given.intervals()
    assert {name: found.difference for name, found in compare([given], [again]).items()} == dict.fromkeys(
        given.intervals(), 0.0
    )


@pytest.mark.parametrize("spoil", ["missing", "truncated", "renamed column"])
def test_damaged_files_are_an_error_that_says_so(spoil):
    files = results(5).to_files()
    if spoil == "missing":
        del files["captions.parquet"]
    elif spoil == "truncated":
        files["rated-expert.parquet"] = files["rated-expert.parquet"][:100]
    else:
        files["images.parquet"] = files["captions.parquet"]
    with pytest.raises(InputError, match=r"query results: .*cannot be read"):
        QueryResults.from_files(files)


def test_a_better_model_is_found_better_and_the_mean_is_that_of_paired_bootstrap():
    worse, better = results(1, skill=1.0), results(2, skill=3.0)
    found = compare([worse], [better])
    assert found["rsum"].difference == pytest.approx(better.metrics()["rsum"] - worse.metrics()["rsum"])
    assert found["rsum"].low > 0
    assert found["rsum"].p_value < 0.01
    recalls = [100.0 * (model.per_caption["t2i/rank"] < 5) for model in (worse, better)]
    by_hand = paired_bootstrap(*recalls, worse.caption_image, resamples=2000)
    assert found["t2i/r5"].as_dict() == pytest.approx(by_hand.as_dict())


def test_seeds_of_a_recipe_are_averaged_and_widen_its_interval():
    seeds = [results(seed, skill=1.0 + seed) for seed in range(3)]
    together = recipe_intervals(seeds)
    assert together["t2i/r10"].estimate == pytest.approx(np.mean([seed.metrics()["t2i/r10"] for seed in seeds]))
    alone = seeds[1].intervals()["t2i/r10"]
    assert together["t2i/r10"].high - together["t2i/r10"].low > alone.high - alone.low


def test_only_metrics_that_all_have_are_compared():
    full = results(1)
    less = QueryResults(
        full.image_ids, full.caption_ids, full.caption_image, "0", {}, {"i2t/rank": full.per_image["i2t/rank"]}, {}
    )
    with pytest.raises(InputError, match="ratings"):
        compare([full], [less])
    without_people = QueryResults(
        full.image_ids, full.caption_ids, full.caption_image, "0", {}, full.per_image, full.per_caption
    )
    assert set(compare([without_people], [less])) == {"i2t/r1", "i2t/r5", "i2t/r10", "i2t/medr", "i2t/meanr"}


def test_other_galleries_are_refused_with_what_they_share():
    here = results(1)
    other_ids = [*here.image_ids[:-1], "other.jpg"]
    with pytest.raises(InputError, match="images: galleries of 40 and 40, of which 39 are in both"):
        compare([here], [results(2, image_ids=other_ids)])
    with pytest.raises(InputError, match="captions: galleries of 130 and 130, of which 130 are in both, in another"):
        compare([here], [results(2, caption_ids=here.caption_ids[::-1].copy())])
    with pytest.raises(InputError, match="the same ids and other texts"):
        compare([here], [results(2, texts="1")])


def test_other_ratings_are_refused():
    one, other = results(1), results(2)
    expert = other.rated["expert"]
    changed = RatedPairs(expert.scores, expert.ratings + 1, expert.image, expert.excluded)
    spoiled = QueryResults(
        other.image_ids,
        other.caption_ids,
        other.caption_image,
        other.texts,
        other.relevances,
        other.per_image,
        other.per_caption,
        {"expert": changed},
        other.alike,
    )
    with pytest.raises(InputError, match="ratings expert: not the same pairs"):
        compare([one], [spoiled])


def test_agreement_with_other_labels_is_not_compared():
    one, other = results(1), results(2, relevances={"label/m": "another digest"})
    assert incomparable([one, other]) == ["label/m"]
    found = compare([one], [other])
    assert "rsum" in found
    assert not [name for name in found if name.startswith("label/m/")]
    assert "label/m/t2i/kendall" in compare([one], [results(2)])


def test_sets_of_ratings_in_another_order_are_the_same_sets():
    def with_sets(seed: int, names: list[str]) -> QueryResults:
        made = results(seed)
        sizes = {"a": 20, "b": 30}
        generator = np.random.default_rng(0)
        ratings = {name: generator.random(sizes[name]) for name in sorted(sizes)}
        scores = np.random.default_rng(seed)
        alike = {
            name: RatedPairs(scores.random(sizes[name]), ratings[name], np.arange(sizes[name]), 0) for name in names
        }
        return dataclasses.replace(made, alike=alike)

    found = compare([with_sets(1, ["a", "b"])], [with_sets(2, ["b", "a"])])
    assert {"sts/a/spearman", "sts/b/spearman"} <= set(found)


def test_other_queries_are_refused():
    one, other = results(1), results(2)
    ranks = other.per_caption["t2i/rank"].copy()
    ranks[3] = np.nan
    with pytest.raises(InputError, match="t2i/rank: not asked by the same queries"):
        compare([one], [dataclasses.replace(other, per_caption={**other.per_caption, "t2i/rank": ranks})])


def test_infinite_scores_of_rated_pairs_are_ordered():
    made = results(1)
    expert = made.rated["expert"]
    scores = expert.scores.copy()
    scores[scores > 1] = np.inf
    high = np.where(np.isinf(scores), 1e9, scores)
    found = [
        dataclasses.replace(made, rated={"expert": RatedPairs(given, expert.ratings, expert.image, 0)}).metrics()
        for given in (scores, high)
    ]
    assert found[0]["human/expert/spearman"] == found[1]["human/expert/spearman"]
