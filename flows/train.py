"""`bcls train`: a corpus and its labels to a trained student."""

from __future__ import annotations

from typing import Any

from bcls_core.config import (
    ClipStudent,
    GivenImageFeatures,
    Recipe,
    SoftLabelTerm,
    TwoTowerStudent,
    content_of,
)
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import ConfigError
from bcls_core.similarity import image_teachers_of, measures_of
from bcls_core.store import Artifact, Draft
from bcls_core.training.history import read_history
from flows import determinants, lineage
from flows.backend import origins, results
from flows.context import Context
from flows.produce import Making, Produced, produce
from flows.result import Grid, Result
from flows.tracking import Job

_SHOWN = ("rsum", "i2t/r1", "i2t/r10", "t2i/r1", "t2i/r10")


def run(context: Context, recipe: Recipe, *, corpus: str | None = None, labels: str | None = None) -> Result:
    """Trains the recipe's student, unless the same training is published already."""
    corpus_found = lineage.find_corpus(context, recipe, corpus)
    labels_found = lineage.find_labels(context, recipe, corpus_found, labels)
    return report(train(context, recipe, corpus_found, labels_found))


def train(context: Context, recipe: Recipe, corpus: Artifact, labels: Artifact) -> Produced:
    """The published training of a recipe on a corpus and its labels.

    Raises:
        ConfigError, CorpusError: as `check`.
    """
    check(recipe, corpus, labels)
    determined = determinants.of_training(recipe.train, corpus, labels)
    return produce(
        context,
        Making(
            kind="training",
            flow="train",
            determinants=determined,
            compute=lambda draft, job: _compute(context, recipe, corpus, labels, determined, draft, job),
            record=lambda job, training: _record(job, recipe, training, corpus, labels),
        ),
    )


def check(recipe: Recipe, corpus: Artifact, labels: Artifact) -> None:
    """What can be known to be wrong before anything is trained.

    Raises:
        ConfigError: the recipe names a relevance measure or a teacher that the label set does not hold, or the student
            takes pictures where the corpus holds features, or the other way round.
        CorpusError: it has no images to train or to validate on.
    """
    _check_measures(recipe, labels)
    _check_teachers(recipe, corpus, labels)
    _check_image_side(recipe, corpus)
    for split in ("train", "val"):
        lineage.require_split(corpus, split)


def _check_measures(recipe: Recipe, labels: Artifact) -> None:
    held = measures_of(labels)
    for setting, measure in recipe.train.measures_read().items():
        if measure not in held:
            raise ConfigError(
                f"{setting}: label set {labels.version} holds no measure {measure!r}, it holds {', '.join(held)}. "
                "Name one of them, or another label set."
            )


def _check_teachers(recipe: Recipe, corpus: Artifact, labels: Artifact) -> None:
    settings = recipe.train
    try:
        read = settings.teachers_read(image_teachers_of(labels), measures_of(labels), f"labels {labels.version}")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for place, (term, named) in enumerate(zip(settings.objective, read, strict=True)):
        if isinstance(term, SoftLabelTerm) and term.labels == "corpus":
            tables = zip(("image_soft_labels", "soft_labels"), named, strict=True)
            lacking = [f"{kind}/{name}" for kind, name in tables if name and f"{kind}/{name}" not in labels.tables]
            if lacking:
                raise ConfigError(
                    f"train.objective[{place}].labels: corpus reads {' and '.join(lacking)}, which labels "
                    f"{labels.version} do not have. Label with label.soft_labels set, or use labels: batch."
                )
    if settings.live_teachers.images and "features" in corpus.tables:
        raise ConfigError(
            f"train.live_teachers.images look at pictures, but corpus {corpus.version} was made from features. Use an "
            "image teacher of the label set, of kind features."
        )


def _check_image_side(recipe: Recipe, corpus: Artifact) -> None:
    student = recipe.train.student
    if isinstance(student, ClipStudent) and "features" in corpus.tables:
        raise ConfigError(
            f"train.student: kind clip looks at pictures, but corpus {corpus.version} was made from features. "
            "Use kind: two-tower with image: {features: LENGTH}, or ingest pictures."
        )
    if not isinstance(student, TwoTowerStudent):
        return
    given, held = isinstance(student.image, GivenImageFeatures), "features" in corpus.tables
    if given != held:
        raise ConfigError(
            f"train.student.image: {'takes features' if given else 'is a tower'}, but corpus {corpus.version} was made "
            f"from {'features' if held else 'pictures'}. "
            f"{'Set image: {features: LENGTH}' if held else 'Name a tower'}, or ingest the other way."
        )


def _compute(
    context: Context,
    recipe: Recipe,
    corpus: Artifact,
    labels: Artifact,
    determined: dict[str, Any],
    draft: Draft,
    job: Job,
) -> Artifact:
    # Imported here, so that a training that is there already is found without loading torch and transformers.
    from bcls_core.training.encode_frozen import EncodeFrozenShard, KeptFeatures
    from bcls_core.training.initial import BuildInitialStudent
    from bcls_core.training.loop import Engine, TrainingJob
    from flows.fit import fit

    settings = recipe.train
    build = {"corpus": corpus, "draft": draft, "settings": settings}
    built = context.backend.run(
        BuildInitialStudent, build, [{"piece": "initial-student"}], draft=draft, what="building the student"
    )
    facts = results(built)[0]
    encoded = []
    if facts["image_tower_frozen"] or facts["caption_tower_frozen"]:
        features = determinants.of_frozen_features(determined, context.device)
        kept = KeptFeatures(context.store.filesystem, features) if features else None
        encode = {"corpus": corpus, "draft": draft, "device": context.device, "kept": kept}
        encoded = context.backend.run(
            EncodeFrozenShard, encode, _shards(corpus), draft=draft, what="encoding with frozen towers"
        )
    training_job = TrainingJob(
        corpus=corpus,
        labels=labels,
        draft=draft,
        settings=settings,
        device=context.device,
        engine=Engine(
            checkpoint_steps=context.runtime.checkpoint_steps,
            compiled=context.runtime.compile,
            activation_checkpointing=context.runtime.activation_checkpointing,
            sharded=context.runtime.fsdp,
        ),
    )
    fit(context, training_job, job)
    return draft.commit(
        fingerprint=determined,
        schema="training/1",
        parents={"corpus": corpus.version, "labels": labels.version},
        statistics={"recipe": recipe.name, **facts},
        sidecar={"mlflow_run": job.run_id, "pieces": origins([*built, *encoded])},
    )


def _shards(corpus: Artifact) -> list[dict[str, Any]]:
    """Pieces for the shards that training and validation read."""
    return [
        {"piece": f"frozen-{split}-{shard:05d}", "split": split, "shard": shard}
        for split in ("train", "val")
        for shard in CorpusRows(corpus, split).shards
    ]


def _record(job: Job, recipe: Recipe, training: Artifact, corpus: Artifact, labels: Artifact) -> None:
    """Everything of the finished training that the run does not hold yet; derived from the artefact alone."""
    from bcls_core.report.figures import training_curves

    history = read_history(training)
    job.log_params(content_of(recipe))
    job.log_inputs([corpus, labels])
    logged = job.logged_steps("val/rsum")
    for epoch, metrics in enumerate(history.epochs):
        if epoch not in logged:
            job.log_metrics(metrics, step=epoch)
    job.log_metrics({f"best/{name}": value for name, value in history.best.items() if name.startswith("val/")})
    job.log_recipe(recipe)
    job.log_figure(training_curves(history), "training.png")
    job.set_tags({"bcls.version": training.version, "bcls.content_digest": training.content_digest})


def report(produced: Produced) -> Result:
    """The training as the command shows it."""
    training = produced.artifact
    history = read_history(training)
    untrained, best = history.epochs[0], history.best
    facts = {
        "version": training.version,
        "content_digest": training.content_digest,
        "state": produced.state,
        "best_epoch": history.best_epoch,
        "epochs": len(history.epochs) - 1,
        "metrics": best,
    }
    rows = [(name, untrained[f"val/{name}"], best[f"val/{name}"]) for name in _SHOWN]
    grid = Grid(("validation", "untrained", "best epoch"), rows)
    return Result(
        f"training {training.version} ({produced.state})",
        facts,
        (grid,),
        frozenset({"version", "state", "metrics"}),
    )


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["train", *sys.argv[1:]])
