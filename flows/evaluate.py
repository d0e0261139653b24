"""`bcls evaluate`: metrics of a trained model and their intervals, computed once per training, split and references."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from bcls_core.config import EvaluateSettings
from bcls_core.errors import InputError
from bcls_core.metrics.query_results import QueryResults
from bcls_core.store import Artifact
from bcls_core.training.references import References
from flows import determinants, lineage
from flows.backend import results
from flows.context import Context
from flows.models import find_training
from flows.produce import version_of
from flows.result import Grid, Result, with_interval
from flows.tracking import Job, flatten

_RECALLS = ("r1", "r5", "r10", "medr")
_QUERIES = "queries"
_LOW, _HIGH = "_low", "_high"

Intervals = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Evaluated:
    """A training's metrics on a split, and its MLflow run."""

    training: Artifact
    split: str
    metrics: dict[str, float]
    intervals: Intervals
    job: Job
    was_there: bool


def run(context: Context, model: str, settings: EvaluateSettings) -> Result:
    """Evaluates a model named by a registry URI or a training version."""
    return report(evaluate(context, find_training(context, model), settings))


def evaluate(
    context: Context,
    training: Artifact,
    settings: EvaluateSettings,
    *,
    experiment: str | None = None,
    references: References | None = None,
) -> Evaluated:
    """The metrics of a training on a split; read from MLflow where they were computed before.

    Args:
        experiment: MLflow's; that of the recipe which made the training if None.
        references: what the settings name, where it was read already.

    Raises:
        LockHeldError: another process is computing the same metrics.
    """
    references = references or References.read(settings)
    lineage.require_split(context.store.resolve("corpus", training.manifest.parents["corpus"]), settings.split)
    version = version_of(determinants.of_evaluation(training, settings.split, references.digests))
    experiment = experiment or str(training.manifest.statistics["recipe"])
    finished = context.tracker.find("evaluate", version, experiment=experiment)
    if finished is not None and finished.is_finished:
        return Evaluated(training, settings.split, *_read(finished, settings.split), finished, was_there=True)
    lease = context.store.lease("training", f"{training.version}-evaluation-{version}")
    with lease, context.tracker.job("evaluate", version, experiment=experiment) as job:
        if job.is_finished:
            metrics, intervals = _read(job, settings.split)
        else:
            found = _compute(context, training, settings.split, references)
            metrics, intervals = (
                found["metrics"],
                {name: (low, high) for name, (low, high) in found["intervals"].items()},
            )
            _record(context, job, training, settings.split, found)
    return Evaluated(training, settings.split, metrics, intervals, job, was_there=job.is_finished)


def query_results(context: Context, evaluated: Evaluated, references: References) -> QueryResults:
    """What each query earned, from the files that the evaluation left with its run; made again if they are damaged."""
    try:
        return QueryResults.from_files(evaluated.job.read_files(_QUERIES))
    except InputError:
        files = _files(_compute(context, evaluated.training, evaluated.split, references))
        evaluated.job.log_files(files, _QUERIES)
        return QueryResults.from_files(files)


def _compute(context: Context, training: Artifact, split: str, references: References) -> dict[str, Any]:
    from bcls_core.training.encode_frozen import KeptFeatures
    from bcls_core.training.evaluate import EvaluateTraining

    corpus, labels = _parents(context, training)
    features = determinants.of_frozen_features(training.manifest.fingerprint, context.device)
    arguments = {
        "corpus": corpus,
        "labels": labels,
        "training": training,
        "references": references,
        "device": context.device,
        "kept": KeptFeatures(context.store.filesystem, features) if features else None,
    }
    pieces = [{"piece": f"evaluate-{split}", "split": split}]
    records = context.backend.run(EvaluateTraining, arguments, pieces, draft=None, what="evaluating")
    return results(records)[0]


def _parents(context: Context, training: Artifact) -> list[Artifact]:
    return [context.store.resolve(kind, training.manifest.parents[kind]) for kind in ("corpus", "labels")]


def _record(context: Context, job: Job, training: Artifact, split: str, found: dict[str, Any]) -> None:
    job.log_inputs([*_parents(context, training), training])
    # A model's settings stand beside its metrics, so that a comparison in the UI shows what differs.
    fingerprint: dict[str, Any] = dict(training.manifest.fingerprint)
    settings = dict(flatten(fingerprint["settings"], "train."))
    job.log_params({"split": split, "training": training.version, **settings})
    job.log_files(_files(found), _QUERIES)
    values = dict(found["metrics"])
    for name, (low, high) in found["intervals"].items():
        values |= {f"{name}{_LOW}": low, f"{name}{_HIGH}": high}
    job.log_metrics({f"{split}/{name}": value for name, value in values.items()})


def _files(found: dict[str, Any]) -> dict[str, bytes]:
    return {name: base64.b64decode(data) for name, data in found["queries"].items()}


def _read(job: Job, split: str) -> tuple[dict[str, float], Intervals]:
    values = {name.removeprefix(f"{split}/"): value for name, value in job.metrics.items()}
    bounded = [name.removesuffix(_LOW) for name in values if name.endswith(_LOW)]
    intervals = {name: (values.pop(f"{name}{_LOW}"), values.pop(f"{name}{_HIGH}")) for name in bounded}
    return values, intervals


def report(evaluated: Evaluated) -> Result:
    """The evaluation as the command shows it."""
    training, split, metrics = evaluated.training, evaluated.split, evaluated.metrics
    title = f"{split} metrics of training {training.version}" + (" (already there)" if evaluated.was_there else "")
    facts = {
        "training": training.version,
        "split": split,
        "metrics": metrics,
        "intervals": {name: list(bounds) for name, bounds in evaluated.intervals.items()},
    }

    def cell(name: str, digits: int) -> str:
        return with_interval(metrics.get(name), evaluated.intervals.get(name), digits)

    directions = [("image to text", "i2t"), ("text to image", "t2i")]
    directions += [(name, key) for name, key in _UNIMODAL if f"{key}/r1" in metrics]
    recalls = Grid(
        ("direction", "R@1 %", "R@5 %", "R@10 %", "median rank"),
        [(name, *(cell(f"{key}/{recall}", 1) for recall in _RECALLS)) for name, key in directions],
    )
    grids = [recalls]
    for title_of, prefixes, figures, digits in _TABLES:
        rows = []
        for prefix, name in _present(metrics, prefixes):
            if any(f"{prefix}/{figure}" in metrics for figure, _ in figures):
                rows.append((name, *(cell(f"{prefix}/{figure}", digits) for figure, _ in figures)))
        if rows:
            grids.append(Grid((title_of, *(heading for _, heading in figures)), rows))
    gallery = f"{int(metrics['images'])} images, {int(metrics['captions'])} captions; rsum {cell('rsum', 1)}"
    notes = ["[low, high]: 95 % intervals, from resampling images with all their captions; this training only"]
    for prefix, name in _present(metrics, ("human/",)):
        if missing := int(metrics[f"{prefix}/missing"]):
            everything = missing + int(metrics[f"{prefix}/pairs"] + metrics[f"{prefix}/excluded"])
            notes.append(f"{name}: {missing} of {everything} ratings are of images or captions that are not in {split}")
    return Result(f"{title}: {gallery}", facts, grids, frozenset(facts), hints=notes)


_UNIMODAL = (("caption to caption", "c2c"), ("image to image", "i2i"))
_AGREEMENT = (
    ("i2t/kendall", "i2t tau-b"),
    ("t2i/kendall", "t2i tau-b"),
    ("i2t/ncs10", "i2t NCS@10"),
    ("t2i/ncs10", "t2i NCS@10"),
)
_TABLES = (
    ("order agreement with", ("label/", "true"), _AGREEMENT, 3),
    (
        "benchmark",
        ("coco-5k", "coco-1k", "cxc"),
        (("i2t/r1", "i2t R@1 %"), ("t2i/r1", "t2i R@1 %"), ("rsum", "rsum")),
        1,
    ),
    (
        "benchmark",
        ("eccv",),
        tuple(
            (f"{side}/{figure}", f"{side} {heading}")
            for figure, heading in (("map_at_r", "mAP@R %"), ("r_precision", "R-P %"), ("r1", "R@1 %"))
            for side in ("i2t", "t2i")
        ),
        1,
    ),
    ("human ratings", ("human/",), (("spearman", "Spearman"), ("per_image_spearman", "per image")), 3),
    ("human ratings of caption pairs", ("sts/",), (("spearman", "Spearman"),), 3),
)
_NAMES = {
    "true": "the true relevance",
    "coco-5k": "COCO 5K",
    "coco-1k": "COCO 1K, mean of 5 folds",
    "cxc": "CxC",
    "eccv": "ECCV Caption",
}


def _present(metrics: dict[str, float], prefixes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Prefixes that some metric has, and how people call them; one that ends with / stands for all below it."""
    found: dict[str, str] = {}
    for prefix in prefixes:
        for name in metrics:
            if prefix.endswith("/") and name.startswith(prefix):
                below = name.removeprefix(prefix).split("/")[0]
                kind = "labels " if prefix == "label/" else ""
                found[prefix + below] = kind + below
            elif name.startswith(f"{prefix}/"):
                found[prefix] = _NAMES[prefix]
    return sorted(found.items())


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["evaluate", *sys.argv[1:]])
