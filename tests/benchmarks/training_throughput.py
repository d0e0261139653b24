"""Pairs a second of the training engine against a plain loop, same student, same data, same losses.

    python -m tests.benchmarks.training_throughput

The plain loop is what one would write for one process: draw a batch, decode, tokenise, look labels up, step; no plan,
no checkpoints, no prefetching, no distribution. The recipe `demo`, an epoch each, in turns. `one worker` is the engine
in one process with all threads, against the plain loop with as many; `each of two workers` is a job on Ray with one
thread a worker, against the plain loop with one thread. Starting, validation and saving are in none of them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from torch import nn

from bcls_core.config import Recipe, load_recipe
from bcls_core.data.rows import CorpusRows
from bcls_core.similarity import LabelSetRelevance, load_gaps
from bcls_core.store import Artifact, Store
from bcls_core.training.batches import BatchSource, InputSource, Relevance
from bcls_core.training.initial import BuildInitialStudent, initial_student
from bcls_core.training.loop import TrainingJob, train
from bcls_core.training.objective import Objective, ScoredPairs
from bcls_core.workers import Workers
from flows import recipes
from tests.benchmarks import record

ROUNDS = 5
SETTINGS = ("train.epochs=1",)


def plain_loop(recipe: Recipe, corpus: Artifact, labels: Artifact) -> float:
    """Pairs a second of an epoch."""
    settings, rows = recipe.train, CorpusRows(corpus, "train")
    student = initial_student(settings, corpus).train()
    objective = Objective(settings.objective, load_gaps(labels))
    relevances = {name: LabelSetRelevance(labels, name, "train") for name in objective.measures}
    source = BatchSource(InputSource(rows, student.preprocessor), relevances)
    optimiser = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=settings.learning_rate)
    order = np.random.default_rng(0).permutation(rows.caption_count)
    steps = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
    started = time.perf_counter()
    for captions in steps:
        images = rows.caption_image[captions]
        scores = student.score(
            student.encode_images(source.inputs.images(images)),
            student.encode_captions(source.inputs.captions(captions)),
        )
        found = {name: Relevance(value) for name, value in source.relevance(images, captions).items()}
        loss = torch.stack(list(objective(ScoredPairs(scores), found).values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), settings.clip_norm)
        optimiser.step()
        float(loss)
    return len(order) / (time.perf_counter() - started)


def engine(recipe: Recipe, corpus: Artifact, labels: Artifact, number: int) -> float:
    """Pairs a second of an epoch in this process."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Store(folder).draft("training", f"{number:016x}")
        BuildInitialStudent(corpus, draft, recipe.train)({"piece": "initial-student"})
        metrics: dict[str, float] = {}
        train(TrainingJob(corpus, labels, draft, recipe.train), Workers(), lambda _, found: metrics.update(found))
    return metrics["train/pairs_per_second"]


def on_ray(root: str, seed: int) -> float:
    """Pairs a second of each of two workers, of the second epoch: the first warms up."""
    bcls(root, "train", "train.epochs=2", f"train.seed={seed}", "runtime.workers=2")
    client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "demo"]
    (run,) = client.search_runs(
        [experiment.experiment_id], "tags.flow = 'train'", order_by=["start_time DESC"], max_results=1
    )
    history = {
        entry.step: entry.value for entry in client.get_metric_history(run.info.run_id, "train/pairs_per_second")
    }
    return float(history[2]) / 2


def bcls(root: str, flow: str, *settings: str) -> None:
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "flows.cli", flow, "-c", "demo", "--root", root, *overrides]
    subprocess.run(command, cwd=record.REPOSITORY, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds: int = parser.parse_args().rounds
    threads = torch.get_num_threads()
    found: dict[str, list[float]] = {"plain, all threads": [], "one worker": [], "plain, one thread": [], "of two": []}
    with tempfile.TemporaryDirectory() as root:
        for flow in ("ingest", "label"):
            bcls(root, flow, "runtime.backend=local")
        recipe = load_recipe(recipes.find("demo"), SETTINGS)
        corpus, labels = (Store(root).current(kind) for kind in ("corpus", "labels"))
        plain_loop(recipe, corpus, labels)  # warm
        for turn in range(rounds):
            torch.set_num_threads(threads)
            found["plain, all threads"].append(plain_loop(recipe, corpus, labels))
            found["one worker"].append(engine(recipe, corpus, labels, turn))
            torch.set_num_threads(1)
            found["plain, one thread"].append(plain_loop(recipe, corpus, labels))
            found["of two"].append(on_ray(root, turn))
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    figures: dict[str, Any] = {
        "pairs a second": medians,
        "one worker to plain": round(medians["one worker"] / medians["plain, all threads"], 3),
        "each of two workers to plain": round(medians["of two"] / medians["plain, one thread"], 3),
        "rounds": rounds,
        "threads": threads,
    }
    record.write("training_throughput", "python -m tests.benchmarks.training_throughput", figures)


if __name__ == "__main__":
    main()
