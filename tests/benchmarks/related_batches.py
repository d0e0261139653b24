"""What relevance-aware batches change: `python -m tests.benchmarks.related_batches [--seeds 0 1 2] [--root FOLDER]`.

Trains the recipe `flickr8k` on a third of its images with random and with related batches, with its own objective and
with a hardest-negative triplet alone, and compares each with random batches on the validation split, and on the test
split, where people judged captions, as `bcls compare` does.
Beside that it plans an epoch in each way and looks at the labels of its batches: how many pairs within a row are
further apart than the gap, and how relevant the most relevant caption of another image is. Writes
`tests/benchmarks/results/related_batches.json`. The frozen tower encodes the captions once for all
trainings. Corpus and labels stay under `--root` for the next time; without it they are made in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.config import Recipe, Split, TrainSettings, load_recipe
from bcls_core.data.rows import CorpusRows
from bcls_core.metrics.query_results import QueryResults, compare, recipe_intervals
from bcls_core.similarity import LabelSetRelevance, load_gaps
from bcls_core.store import Artifact, Store
from bcls_core.students import load_student
from bcls_core.training.encode_frozen import EncodeFrozenShard
from bcls_core.training.evaluate import evaluate
from bcls_core.training.history import MODEL
from bcls_core.training.initial import BuildInitialStudent
from bcls_core.training.loop import TrainingJob, train
from bcls_core.training.plan import BatchPlan, batch_plan
from bcls_core.training.references import References
from bcls_core.training.related import Neighbours, planner, related_plan
from bcls_core.workers import Workers
from flows import recipes
from tests.benchmarks import record

SMALLER = "ingest.annotations=${BCLS_DATA}/data/flickr8k_3k/annotations.json"
MEASURE = "minilm"
GAPS = ("p60", "p90")
BATCHES = {
    "random": "{kind: random}",
    "related, half": f"{{kind: related, measure: {MEASURE}, share: 0.5}}",
    "related, all": f"{{kind: related, measure: {MEASURE}, share: 1.0}}",
}
OBJECTIVES = {
    "soft triplet and Kendall": ([], tuple(BATCHES)),
    "hardest triplet": (["train.objective=[{loss: triplet, mining: hardest, margin: 0.2}]"], tuple(BATCHES)[:2]),
}
"""Overrides of the recipe, and the batches it is trained with."""

METRICS = ("rsum", "t2i/r1", "i2t/r1", "human/expert/spearman", "human/crowd/spearman")
SPLITS: tuple[Split, ...] = ("val", "test")
PLANNED = 150_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--root", help="where corpus and labels stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or folder
        corpus, labels = (Store(root).resolve(*_made(stage, root)) for stage in ("ingest", "label"))
        trainings = Trainings(Path(folder), corpus, labels)
        figures = {
            "labels": {name: _labels(corpus, labels, batches) for name, batches in BATCHES.items()},
            "trained": {name: trainings.compared(*each, arguments.seeds) for name, each in OBJECTIVES.items()},
            "images": CorpusRows(corpus, "train").image_count,
            "seeds": arguments.seeds,
            "planning": _planning(),
        }
    seeds = " ".join(map(str, arguments.seeds))
    record.write("related_batches", f"python -m tests.benchmarks.related_batches --seeds {seeds}", _rounded(figures))


def _recipe(*overrides: str) -> Recipe:
    return load_recipe(recipes.find("flickr8k"), [os.path.expandvars(SMALLER), *overrides])


def _made(stage: str, root: str) -> tuple[str, str]:
    """Kind and version of what `bcls ingest` or `bcls label` makes of the recipe."""
    options = ["-c", "flickr8k", "--set", os.path.expandvars(SMALLER), "--local", "--root", root, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", stage, *options], cwd=record.REPOSITORY, stdout=subprocess.PIPE, check=True
    )
    return {"ingest": "corpus", "label": "labels"}[stage], json.loads(done.stdout)["version"]


class Trainings:
    """Trainings on one corpus; the frozen tower encodes its captions for the first of them."""

    def __init__(self, folder: Path, corpus: Artifact, labels: Artifact) -> None:
        self._store, self._frozen = Store(folder / "trainings"), folder / "frozen"
        self._corpus, self._labels = corpus, labels
        self._references = References.read(_recipe().evaluate)
        self._begun = 0

    def compared(self, overrides: list[str], kinds: tuple[str, ...], seeds: list[int]) -> dict[str, Any]:
        """For each split estimates with random batches, and each other kind's differences from them."""
        found = {
            kind: [
                self._results(_recipe(*overrides, f"train.batches={BATCHES[kind]}", f"train.seed={seed}").train)
                for seed in seeds
            ]
            for kind in kinds
        }
        return {split: _compared({kind: [one[split] for one in found[kind]] for kind in kinds}) for split in SPLITS}

    def _results(self, settings: TrainSettings) -> dict[str, QueryResults]:
        draft = self._store.draft("training", f"{self._begun:016x}")
        BuildInitialStudent(self._corpus, draft, settings)({"piece": "initial-student"})
        if self._begun == 0:
            encode = EncodeFrozenShard(self._corpus, draft, "cpu")
            for split in ("train", "val"):
                for shard in CorpusRows(self._corpus, split).shards:
                    encode({"split": split, "shard": shard})
            draft.scratch.copy_tree("frozen", self._frozen)
        else:
            draft.scratch.add_tree("frozen", self._frozen)
        self._begun += 1
        train(TrainingJob(self._corpus, self._labels, draft, settings), Workers(), lambda *_: None)
        training = draft.commit(fingerprint={"training": draft.version}, schema="training/1")
        student = load_student(training.local(MODEL)).eval()
        references = {"test": self._references}
        return {
            split: evaluate(student, self._corpus, self._labels, split, references.get(split, References()))
            for split in SPLITS
        }


def _compared(found: dict[str, list[QueryResults]]) -> dict[str, Any]:
    shown: dict[str, Any] = {"random": _shown(recipe_intervals(found["random"]))}
    others = {kind: results for kind, results in found.items() if kind != "random"}
    return shown | {kind: _shown(compare(found["random"], results)) for kind, results in others.items()}


def _shown(metrics: dict[str, Any]) -> dict[str, Any]:
    names = [*METRICS, *sorted(name for name in metrics if name.startswith("label/") and name.endswith("/kendall"))]
    return {name: metrics[name].as_dict() for name in names if name in metrics}


def _labels(corpus: Artifact, labels: Artifact, batches: str) -> dict[str, float]:
    """Means over the batches of one epoch, both directions together, in the units of the measure."""
    rows = CorpusRows(corpus, "train")
    plan = planner(_recipe(f"train.batches={batches}").train, rows, labels)(1)
    relevance = LabelSetRelevance(labels, MEASURE, "train")
    gaps = {name: load_gaps(labels)[MEASURE].resolve(name) for name in GAPS}
    found = [_of_batch(plan, step, rows, relevance, gaps) for step in range(plan.steps)]
    means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    return means | {"in groups": plan.grouped / plan.used, **{f"gap {name}": gap for name, gap in gaps.items()}}


def _of_batch(
    plan: BatchPlan, step: int, rows: CorpusRows, relevance: LabelSetRelevance, gaps: dict[str, float]
) -> dict[str, float]:
    image_rows, caption_rows = plan.step(step)
    own = [rows.caption_ids[rows.captions_of(row)] for row in image_rows]
    labels = relevance.rows(own, rows.caption_ids[caption_rows])
    both = np.concatenate([labels, labels.T])
    pairs = len(both) * labels.shape[1] * (labels.shape[1] - 1) / 2
    shares = {f"pairs above {name}": _pairs_above(both, gap) / pairs for name, gap in gaps.items()}
    foreign = np.where(np.tile(np.eye(len(labels), dtype=bool), (2, 1)), -np.inf, both)
    return shares | {"most relevant other": float(foreign.max(axis=1).mean())}


def _pairs_above(labels: NDArray[np.float32], gap: float) -> int:
    return sum(int((np.abs(row[:, None] - row[None, :]) > np.float32(gap)).sum()) // 2 for row in labels)


def _planning() -> dict[str, Any]:
    """Seconds to plan an epoch of Flickr30k's size, the compiled code loaded: the best of three."""
    captions, away = np.arange(PLANNED), np.random.default_rng(0).integers(-500, 500, (PLANNED, 32))
    near = (captions[:, None] + away) % PLANNED
    neighbours = Neighbours(np.arange(PLANNED + 1) * 32, near.ravel().astype(np.int32))

    def seconds(plan: Any, **settings: Any) -> float:
        times = []
        for epoch in range(3):
            started = time.perf_counter()
            plan(captions // 5, 128, epoch=epoch, seed=0, **settings)
            times.append(time.perf_counter() - started)
        return round(min(times), 2)

    return {
        "captions": PLANNED,
        "random": seconds(batch_plan),
        "related": seconds(related_plan, neighbours=neighbours, share=0.5, most=8),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
