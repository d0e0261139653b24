"""`bcls bench methods`: a recipe's methods on one corpus and its labels, with several seeds, each against the first."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcls_core.config import Recipe
from bcls_core.errors import ConfigError, StalePublicationError
from bcls_core.metrics.query_results import QueryResults, compare, recipe_intervals
from bcls_core.metrics.significance import Difference, Interval
from bcls_core.store import Artifact
from bcls_core.training.history import History, read_history
from bcls_core.training.references import References
from flows import determinants, ingest, label, lineage
from flows.context import Context
from flows.evaluate import Evaluated, evaluate, query_results
from flows.produce import Produced, version_of
from flows.progress import say
from flows.result import Grid, Result, with_interval
from flows.side_by_side import Work, run_side_by_side
from flows.train import check, train

log = logging.getLogger(__name__)

_RACES = 5
_SHOWN = (r"rsum", r"human/.*/spearman", r"label/.*/t2i/kendall")
"""Metrics that people see, in this order; programs get all of them."""


@dataclass(frozen=True)
class _Run:
    """One training of a method and its evaluation."""

    method: str
    seed: int
    training: Produced
    evaluated: Evaluated
    queries: QueryResults

    @property
    def history(self) -> History:
        return read_history(self.training.artifact)

    def as_dict(self) -> dict[str, Any]:
        history = self.history
        return {
            "method": self.method,
            "seed": self.seed,
            "training": self.training.artifact.version,
            "content_digest": self.training.artifact.content_digest,
            "best_epoch": history.best_epoch,
            "val_rsum": history.best["val/rsum"],
            "metrics": self.evaluated.metrics,
        }


def run(context: Context, methods: Mapping[str, Recipe], *, seeds: int, at_once: int = 1) -> Result:
    """Trains and evaluates what was not yet, all methods with one seed before any with the next.

    The recipe's current training is the last that was made.

    Args:
        methods: by name; recipes that differ in train alone (`load_methods`).
        seeds: trainings of each method, with its train.seed and those that follow.
        at_once: how many of them at a time; more than one are trained in processes of their own, and evaluated after.
    Raises:
        ConfigError: two methods are one training, a method cannot be trained on this corpus and its labels, or there
            are not as many seeds, or the cluster could never hold as many trainings.
    """
    recipe = next(iter(methods.values()))
    if recipe.train.seed + seeds > 2**64:
        raise ConfigError(f"train.seed={recipe.train.seed}: there are no {seeds} seeds from there on. Lower it.")
    if at_once > 1 and context.runtime.backend == "ray":
        from flows.fit_on_ray import require_workers

        require_workers(context.runtime, context.device, min(at_once, seeds * len(methods)))
    references = References.read(recipe.evaluate)
    corpus = ingest.ingest(context, recipe).artifact
    lineage.require_split(corpus, recipe.evaluate.split)
    labels = label.label(context, recipe, corpus).artifact
    _check(methods, corpus, labels)
    asked = [
        (name, _with_seed(method, method.train.seed + number))
        for number in range(seeds)
        for name, method in methods.items()
    ]
    if at_once > 1:
        _train_side_by_side(context, asked, corpus, labels, at_once)
    runs: dict[str, list[_Run]] = {name: [] for name in methods}
    for place, (name, seeded) in enumerate(asked, start=1):
        seed = seeded.train.seed
        say(f"{'training' if at_once == 1 else 'evaluation'} {place} of {len(asked)}: {name}, seed {seed}")
        training = _trained(context, seeded, corpus, labels)
        evaluated = evaluate(context, training.artifact, recipe.evaluate, experiment=recipe.name, references=references)
        for job, what in ((training.job, "train"), (evaluated.job, f"evaluate {recipe.evaluate.split}")):
            job.set_tags({"bcls.method": name, "bcls.seed": seed})
            job.name(f"{name}, seed {seed}: {what}")
        queries = query_results(context, evaluated, references)
        runs[name].append(_Run(name, seed, training, evaluated, queries))
    return _report(context, recipe, runs)


def _check(methods: Mapping[str, Recipe], corpus: Artifact, labels: Artifact) -> None:
    """All of them can be trained, and are several trainings: two settings may name one model."""
    known: dict[str, str] = {}
    for name, method in methods.items():
        check(method, corpus, labels)
        version = version_of(determinants.of_training(method.train, corpus, labels))
        if version in known:
            raise ConfigError(f"methods {known[version]} and {name} train the same. Leave one of them out.")
        known[version] = name


def _train_side_by_side(
    context: Context, asked: Sequence[tuple[str, Recipe]], corpus: Artifact, labels: Artifact, at_once: int
) -> None:
    there = {info.version for info in context.store.list("training")}
    lacking = [
        (f"{name}, seed {method.train.seed}", method)
        for name, method in asked
        if version_of(determinants.of_training(method.train, corpus, labels)) not in there
    ]
    at_once = min(at_once, len(lacking))
    plain = Context(context.name, context.runtime, context.root, at_once)  # without what was opened in this process
    works = [Work(name, _train_alone, (plain, method, corpus, labels)) for name, method in lacking]
    run_side_by_side(works, at_once, on_ray=context.runtime.backend == "ray")


def _train_alone(context: Context, recipe: Recipe, corpus: Artifact, labels: Artifact) -> None:
    _trained(context, recipe, corpus, labels)


def _trained(context: Context, recipe: Recipe, corpus: Artifact, labels: Artifact) -> Produced:
    """The training, whatever was published under the recipe's name meanwhile: a bench has no use for what is newest."""
    for _ in range(_RACES):
        try:
            return train(context, recipe, corpus, labels)
        except StalePublicationError:
            log.info("a training of %s was published meanwhile; this one is published after it", recipe.name)
    return train(context, recipe, corpus, labels)


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})


def _report(context: Context, recipe: Recipe, runs: Mapping[str, Sequence[_Run]]) -> Result:
    queries = {name: [one.queries for one in of_method] for name, of_method in runs.items()}
    baseline, *others = queries
    estimates = {name: recipe_intervals(seeds) for name, seeds in queries.items()}
    differences = {name: compare(queries[baseline], queries[name]) for name in others}
    seeds = [one.seed for one in runs[baseline]]
    facts = {
        "experiment": recipe.name,
        "split": recipe.evaluate.split,
        "confidence": 0.95,
        "seeds": seeds,
        "baseline": baseline,
        "methods": {
            name: {
                "metrics": {metric: found.as_dict() for metric, found in intervals.items()},
                "differences": {metric: found.as_dict() for metric, found in differences.get(name, {}).items()},
            }
            for name, intervals in estimates.items()
        },
        "runs": [one.as_dict() for number in range(len(seeds)) for one in (found[number] for found in runs.values())],
    }
    images, captions = len(queries[baseline][0].image_ids), len(queries[baseline][0].caption_ids)
    many = f"{len(seeds)} seed{'s'[: len(seeds) > 1]}"
    title = f"{recipe.evaluate.split} split, {images} images, {captions} captions; {many} of each method"
    grids = [
        _grid(metric, baseline, estimates, differences)
        for shown in _SHOWN
        for metric in estimates[baseline]
        if re.fullmatch(shown, metric)
    ]
    hints = ["* the 95 % interval of the difference leaves out 0; p is two-sided, for one comparison alone"]
    made = [one for of_method in runs.values() for one in of_method]
    untrained = [f"{one.method}, seed {one.seed}" for one in made if one.history.best_epoch == 0]
    if untrained:
        hints.append(f"no epoch was better on val than the untrained student, which was kept: {'; '.join(untrained)}")
    if len(seeds) == 1:
        hints.append("one seed: intervals speak about these trained models, not about the methods")
    hints.append(f"Look at runs:  {context.tracker.how_to_look}  (group them by the tag bcls.method)")
    return Result(title, facts, grids, frozenset(facts), hints)


def _grid(
    metric: str,
    baseline: str,
    estimates: Mapping[str, Mapping[str, Interval]],
    differences: Mapping[str, Mapping[str, Difference]],
) -> Grid:
    digits = 1 if metric == "rsum" else 3
    rows = []
    for name, intervals in estimates.items():
        own, found = intervals.get(metric), differences.get(name, {}).get(metric)
        shown = "-" if own is None else with_interval(own.estimate, (own.low, own.high), digits)
        if found is None:
            rows.append((name, shown, "", "", ""))
        else:
            apart = "" if found.low <= 0 <= found.high else "*"
            change = with_interval(found.difference, (found.low, found.high), digits)
            rows.append((name, shown, change, f"{found.p_value:.3f}", apart))
    return Grid((metric, "[95 %]", f"less {baseline} [95 %]", "p", ""), rows)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["bench", *sys.argv[1:]])
