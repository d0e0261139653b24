"""Pairs a second of the training engine against a plain loop, same student, same data, same losses.

    python -m tests.benchmarks.training_throughput

The plain loop is what one would write for one process: draw a batch, decode, tokenise, look labels up, step; no plan,
no checkpoints, no distribution. The recipe `demo`, in turns, and each turn's ratio is taken before the median.
`one worker` is the engine in one process with all threads, against the plain loop with as many. `each of two workers`
is a job on Ray with one thread a worker, against two plain loops side by side with one thread each and steps as large
as the job's. Starting, validation and saving are in none of them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
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

_both: Barrier
ROUNDS = 5
OF_TWO = "train.batch_size=256"


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
        float(loss.detach())
    return len(order) / (time.perf_counter() - started)


def engine(recipe: Recipe, corpus: Artifact, labels: Artifact, number: int) -> float:
    """Pairs a second of an epoch in this process."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Store(folder).draft("training", f"{number:016x}")
        BuildInitialStudent(corpus, draft, recipe.train)({"piece": "initial-student"})
        metrics: dict[str, float] = {}
        train(TrainingJob(corpus, labels, draft, recipe.train), Workers(), lambda _, found: metrics.update(found))
    return metrics["train/pairs_per_second"]


def side_by_side(root: str) -> float:
    """Pairs a second of each of two plain loops in processes of their own, of the second epoch: the first warms up."""
    context = multiprocessing.get_context("spawn")
    both = context.Barrier(2)
    with concurrent.futures.ProcessPoolExecutor(2, context, _share, (both,)) as pool:
        return statistics.mean(pool.map(_second_epoch, [root] * 2))


def _share(both: Barrier) -> None:
    global _both  # a barrier goes to other processes only as they start
    _both = both


def _second_epoch(root: str) -> float:
    torch.set_num_threads(1)
    ingredients = open_root(root, OF_TWO)
    plain_loop(*ingredients)
    _both.wait()
    return plain_loop(*ingredients)


def on_ray(root: str, seed: int) -> float:
    """Pairs a second of each of two workers, of the second epoch."""
    bcls(root, "train", "train.epochs=2", f"train.seed={seed}", "runtime.workers=2", OF_TWO)
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


def open_root(root: str, *settings: str) -> tuple[Recipe, Artifact, Artifact]:
    """Recipe, corpus and labels."""
    corpus, labels = (Store(root).current(kind) for kind in ("corpus", "labels"))
    return load_recipe(recipes.find("demo"), ("train.epochs=1", *settings)), corpus, labels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds: int = parser.parse_args().rounds
    names = ("plain", "one worker", "plain, each of two", "each of two workers")
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as root:
        for flow in ("ingest", "label"):
            bcls(root, flow, "runtime.backend=local")
        ingredients = open_root(root)
        plain_loop(*ingredients)  # warm
        for turn in range(rounds):
            found["plain"].append(plain_loop(*ingredients))
            found["one worker"].append(engine(*ingredients, turn))
            found["plain, each of two"].append(side_by_side(root))
            found["each of two workers"].append(on_ray(root, turn))

    def ratio(name: str, peer: str) -> float:
        return round(statistics.median(a / b for a, b in zip(found[name], found[peer], strict=True)), 3)

    figures: dict[str, Any] = {
        "pairs a second": {name: round(statistics.median(values), 1) for name, values in found.items()},
        "one worker to plain": ratio("one worker", "plain"),
        "each of two workers to plain": ratio("each of two workers", "plain, each of two"),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
    }
    record.write("training_throughput", "python -m tests.benchmarks.training_throughput", figures)


if __name__ == "__main__":
    main()
