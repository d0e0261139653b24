"""`bcls evaluate`: metrics of a trained model, computed once per training and split."""

from __future__ import annotations

from bcls_core.store import Artifact
from flows import determinants, lineage
from flows.backend import results
from flows.context import Context
from flows.models import find_training
from flows.produce import version_of
from flows.result import Grid, Result

_RECALLS = ("r1", "r5", "r10", "medr")


def run(context: Context, model: str, *, split: str) -> Result:
    """Evaluates a model named by a registry URI or a training version."""
    training = find_training(context, model)
    lineage.require_split(context.store.resolve("corpus", training.manifest.parents["corpus"]), split)
    return evaluate(context, training, split)


def evaluate(context: Context, training: Artifact, split: str, *, experiment: str | None = None) -> Result:
    """The metrics of a training on a split; read from MLflow where they were computed before.

    Args:
        experiment: MLflow's; that of the recipe which made the training if None.
    """
    parents = training.manifest.parents
    version = version_of(determinants.of_evaluation(training, split))
    job = context.tracker.job("evaluate", version, experiment=experiment or str(training.manifest.statistics["recipe"]))
    with job:
        if job.is_finished:
            metrics = {name.removeprefix(f"{split}/"): value for name, value in job.metrics.items()}
        else:
            from bcls_core.training.evaluate import EvaluateTraining

            corpus, labels = (context.store.resolve(kind, parents[kind]) for kind in ("corpus", "labels"))
            arguments = {"corpus": corpus, "labels": labels, "training": training, "device": context.device}
            pieces = [{"piece": f"evaluate-{split}", "split": split}]
            records = context.backend.run(EvaluateTraining, arguments, pieces, draft=None, what="evaluating")
            metrics = results(records)[0]
            job.log_inputs([corpus, labels, training])
            job.log_params({"split": split, "training": training.version})
            job.log_metrics({f"{split}/{name}": value for name, value in metrics.items()})
    return _report(training, split, metrics, was_there=job.is_finished)


def _report(training: Artifact, split: str, metrics: dict[str, float], *, was_there: bool) -> Result:
    title = f"{split} metrics of training {training.version}" + (" (already there)" if was_there else "")
    facts = {"training": training.version, "split": split, "metrics": metrics}
    directions = [("image to text", "i2t"), ("text to image", "t2i")]
    rows = [(name, *(metrics[f"{key}/{recall}"] for recall in _RECALLS)) for name, key in directions]
    recalls = Grid(("direction", "R@1 %", "R@5 %", "R@10 %", "median rank"), rows)
    against = sorted({name.split("/i2t/")[0] for name in metrics if "/i2t/kendall" in name and "queries" not in name})
    agreement = Grid(
        ("order agreement with", "i2t tau-b", "t2i tau-b", "i2t Spearman", "t2i Spearman"),
        [
            (
                "the true relevance" if name == "true" else f"labels {name.removeprefix('label/')}",
                *(metrics[f"{name}/{side}/{kind}"] for kind in ("kendall", "spearman") for side in ("i2t", "t2i")),
            )
            for name in against
        ],
    )
    gallery = f"{int(metrics['images'])} images, {int(metrics['captions'])} captions; rsum {metrics['rsum']:.1f}"
    return Result(f"{title}: {gallery}", facts, (recalls, agreement), frozenset(facts))


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["evaluate", *sys.argv[1:]])
