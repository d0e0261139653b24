"""`bcls label`: a corpus's captions to representations, neighbours and gap quantiles."""

from __future__ import annotations

from typing import Any

from bcls_core.config import CiderMeasureSettings, Recipe
from bcls_core.similarity import load_gaps
from bcls_core.similarity.labels import EstimateGaps, FitCider, NeighboursShard, RepresentShard
from bcls_core.store import Artifact, Draft
from flows import determinants, lineage
from flows.backend import Record, WorkerClass, origins
from flows.context import Context
from flows.produce import Making, Produced, produce
from flows.result import Grid, Result
from flows.tracking import Job

_SHOWN_PERCENTILES = (10, 25, 50, 60, 75, 90)


def run(context: Context, recipe: Recipe, *, corpus: str | None = None) -> Result:
    """Labels the recipe's corpus, unless the same label set is published already."""
    return report(label(context, recipe, lineage.find_corpus(context, recipe, corpus)))


def label(context: Context, recipe: Recipe, corpus: Artifact) -> Produced:
    """The published label set of a corpus."""
    determined = determinants.of_labels(recipe.label, corpus)
    return produce(
        context,
        Making(
            kind="labels",
            flow="label",
            determinants=determined,
            compute=lambda draft, job: _compute(context, recipe, corpus, determined, draft, job),
            record=lambda job, labels: _record(job, recipe, corpus, labels),
        ),
    )


def _compute(
    context: Context, recipe: Recipe, corpus: Artifact, determined: dict[str, Any], draft: Draft, job: Job
) -> Artifact:
    settings = recipe.label
    places = {"root": context.root, "corpus": corpus.version, "labels": draft.version}
    shards = range(len(corpus.parts("captions")))
    records: list[Record] = []

    def stage(worker: WorkerClass, pieces: list[dict[str, Any]], what: str, **arguments: Any) -> None:
        records.extend(context.backend.run(worker, places | arguments, pieces, draft=draft, what=what))

    if any(isinstance(measure, CiderMeasureSettings) for measure in settings.measures.values()):
        stage(FitCider, [{"piece": "fit-cider"}], "counting n-grams")
    for name, measure in settings.measures.items():
        pieces = [{"piece": f"represent-{name}-{shard:05d}", "shard": shard} for shard in shards]
        stage(RepresentShard, pieces, f"{name}: captions", measure=name, settings=measure, device=context.device)
    for name, measure in settings.measures.items():
        pieces = [{"piece": f"neighbours-{name}-{shard:05d}", "shard": shard} for shard in shards]
        stage(NeighboursShard, pieces, f"{name}: neighbours", measure=name, settings=measure, k=settings.neighbours)
    gaps = {"measures": settings.measures, "pairs": settings.gap_pairs, "seed": settings.seed}
    stage(EstimateGaps, [{"piece": "gap-quantiles"}], "label gaps", **gaps)
    return draft.commit(
        fingerprint=determined,
        schema="labels/1",
        parents={"corpus": corpus.version},
        statistics={"recipe": recipe.name, "measures": sorted(settings.measures)},
        sidecar={"mlflow_run": job.run_id, "pieces": origins(records)},
    )


def _record(job: Job, recipe: Recipe, corpus: Artifact, labels: Artifact) -> None:
    from bcls_core.report.figures import label_quantiles

    gaps = load_gaps(labels)
    job.log_params({"label": recipe.label.model_dump(mode="json")})
    job.log_inputs([corpus])
    for name, quantiles in gaps.items():
        job.log_metrics({f"gap/{name}/p{p}": quantiles.values[p] for p in _SHOWN_PERCENTILES})
    job.log_figure(label_quantiles({name: list(quantiles.values) for name, quantiles in gaps.items()}), "gaps.png")
    job.log_recipe(recipe)
    job.set_tags({"bcls.version": labels.version, "bcls.content_digest": labels.content_digest})


def report(produced: Produced) -> Result:
    """The label set as the command shows it."""
    labels = produced.artifact
    gaps = load_gaps(labels)
    facts = {
        "version": labels.version,
        "content_digest": labels.content_digest,
        "state": produced.state,
        "tables": {name: table.rows for name, table in labels.manifest.tables.items()},
        "gaps": {name: [float(value) for value in quantiles.values] for name, quantiles in gaps.items()},
    }
    grid = Grid(
        ("label difference at percentile", *(f"p{percentile}" for percentile in _SHOWN_PERCENTILES)),
        [(name, *(float(quantiles.values[p]) for p in _SHOWN_PERCENTILES)) for name, quantiles in gaps.items()],
    )
    hidden = frozenset({"version", "state", "gaps"})
    return Result(f"labels {labels.version} ({produced.state})", facts, (grid,), hidden)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["label", *sys.argv[1:]])
