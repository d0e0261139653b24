"""A small demo corpus with its labels, and trainings on it in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from bcls_core.config import (
    DescriptorTeacherSettings,
    FeatureTeacherSettings,
    LabelSettings,
    ObjectiveTerm,
    TrainSettings,
    load_recipe,
)
from bcls_core.data.ingest import determinants_of, plan_ingest
from bcls_core.similarity.image_labels import RepresentImages
from bcls_core.similarity.labels import EstimateGaps, FitFrequencies, RepresentShard
from bcls_core.similarity.neighbour_labels import SearchPanel
from bcls_core.store import Artifact, Store, fingerprint
from bcls_core.training.initial import BuildInitialStudent
from bcls_core.training.loop import TrainingJob
from flows import recipes

SETTINGS = (
    "ingest.train=60",
    "ingest.val=24",
    "ingest.test=12",
    "ingest.size=32",
    "train.epochs=3",
    "train.batch_size=28",
    "train.student.image={size: 32, config: {model_type: convnext, num_stages: 2, patch_size: 8, "
    "hidden_sizes: [8, 16], depths: [1, 1]}}",
    "train.student.text={max_tokens: 24, config: {model_type: bert, hidden_size: 16, num_hidden_layers: 1, "
    "num_attention_heads: 2, intermediate_size: 32, hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}}",
    "train.student.dim=16",
    "train.objective=[{loss: triplet, mining: soft, tau: 0.1}, {loss: info-nce, weight: 0.3, highest: 0.2}, "
    "{loss: kendall, relevance: cider, gap: p60, sampling: dead-zone, window: 3, hard: true}]",
)


class TrainingGround:
    """A store with a corpus and labels, in which trainings are begun."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.recipe = load_recipe(recipes.find("demo"), SETTINGS)
        self.corpus = self._ingest()
        self.labels = label(self.store, self.corpus, self.recipe.label.model_copy(update={"neighbours": 8}))

    def begin(self, version: str, **changes: Any) -> TrainingJob:
        """A training with its initial student built; the recipe's settings but for `changes`."""
        settings: TrainSettings = self.recipe.train.model_copy(update=changes)
        draft = self.store.draft("training", version)
        BuildInitialStudent(self.corpus, draft, settings)({"piece": "initial-student"})
        return TrainingJob(self.corpus, self.labels, draft, settings)

    def _ingest(self) -> Artifact:
        determined = determinants_of(self.recipe.ingest, {})
        draft = self.store.draft("corpus", fingerprint(determined)[:16])
        plan = plan_ingest(self.recipe.ingest, 24, draft, lambda *_: [])
        worker = plan.worker(**plan.arguments)
        statistics = plan.finish([worker(piece) for piece in plan.pieces], {})
        return draft.commit(fingerprint=determined, schema="corpus/1", statistics=statistics)


def label(store: Store, corpus: Artifact, settings: LabelSettings) -> Artifact:
    """Labels of a corpus by the measure `cider` of the settings, and of its images by the teacher `looks`."""
    draft = store.draft("labels", "small")
    places = (str(store.url), corpus.version, draft.version)
    measure = settings.measures["cider"]
    shards = range(len(corpus.parts("captions")))
    FitFrequencies(*places)({"piece": "fit"})
    represent, search = RepresentShard(*places, "cider", measure), SearchPanel(*places, "cider", settings)
    for shard in shards:
        represent({"piece": str(shard), "shard": shard})
    for shard in shards:
        search({"piece": str(shard), "shards": [shard]})
    EstimateGaps(*places, {"cider": measure}, 2000, 0)({"piece": "gaps"})
    given = "features" in corpus.tables
    teacher = FeatureTeacherSettings(kind="features") if given else DescriptorTeacherSettings(kind="descriptors")
    looks = RepresentImages(*places, "looks", teacher)
    for shard in shards:
        looks({"piece": f"images-{shard}", "shard": shard})
    return draft.commit(fingerprint={"stage": "label"}, schema="labels/1")


def cusa() -> Any:
    """InfoNCE with soft labels across the sides and within each, as a training's `objective`."""
    terms: Any = TypeAdapter(list[ObjectiveTerm])
    within = {"loss": "soft-label", "between": ["image-image", "caption-caption"], "weight": 2.0}
    return terms.validate_python([{"loss": "info-nce"}, {"loss": "soft-label", "weight": 4.0}, within])


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> TrainingGround:
    return TrainingGround(tmp_path_factory.mktemp("ground"))
