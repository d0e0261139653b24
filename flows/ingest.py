"""`bcls ingest`: raw annotations and images, or drawn scenes, to a validated, versioned corpus."""

from __future__ import annotations

from typing import Any

from bcls_core.config import Recipe, content_of
from bcls_core.data.ingest import IngestPlan, determinants_of, plan_ingest
from bcls_core.data.inputs import input_digest
from bcls_core.data.schema import SCHEMA, SPLITS
from bcls_core.store import Artifact, Draft
from flows.backend import Record, origins, results
from flows.context import Context
from flows.produce import Making, Produced, produce
from flows.result import Grid, Result
from flows.tracking import Job

_STATES = ("input", "accepted", "rejected")


def run(context: Context, recipe: Recipe) -> Result:
    """Ingests the recipe's dataset, unless the same corpus is published already."""
    return report(ingest(context, recipe))


def ingest(context: Context, recipe: Recipe) -> Produced:
    """The published corpus of a recipe."""
    inputs = input_digest(recipe.ingest, _runner(context, None, []))
    determined = determinants_of(recipe.ingest, inputs)
    return produce(
        context,
        Making(
            kind="corpus",
            flow="ingest",
            determinants=determined,
            compute=lambda draft, job: _compute(context, recipe, inputs, determined, draft, job),
            record=lambda job, corpus: _record(job, recipe, corpus),
            layout={"shard_images": context.runtime.shard_images},
        ),
    )


def _compute(
    context: Context, recipe: Recipe, inputs: dict[str, Any], determined: dict[str, Any], draft: Draft, job: Job
) -> Artifact:
    records: list[Record] = []
    run_pieces = _runner(context, draft, records)
    plan: IngestPlan = plan_ingest(recipe.ingest, context.runtime.shard_images, draft, run_pieces)
    made = run_pieces(plan.worker, plan.arguments, plan.pieces, "ingesting images")
    return draft.commit(
        fingerprint=determined,
        schema=SCHEMA,
        statistics={"recipe": recipe.name, **plan.finish(made, inputs)},
        sidecar={"mlflow_run": job.run_id, "pieces": origins(records)},
    )


def _runner(context: Context, draft: Draft | None, records: list[Record]) -> Any:
    """The backend as the library wants it: results in order; who did what is kept in `records`."""

    def run_pieces(worker: type, arguments: dict[str, Any], pieces: list[dict[str, Any]], what: str) -> list[Any]:
        done = context.backend.run(worker, arguments, pieces, draft=draft, what=what)
        records.extend(done)
        return results(done)

    return run_pieces


def _record(job: Job, recipe: Recipe, corpus: Artifact) -> None:
    statistics: dict[str, Any] = dict(corpus.manifest.statistics)
    job.log_params({"ingest": content_of(recipe.ingest)})
    for source in ("images", "captions"):
        job.log_metrics({f"{source}/{state}": statistics[source][state] for state in ("accepted", "rejected")})
    job.log_recipe(recipe)
    job.set_tags({"bcls.version": corpus.version, "bcls.content_digest": corpus.content_digest})


def report(produced: Produced) -> Result:
    """The corpus as the command shows it: what went in, what was accepted, what was not and why."""
    corpus = produced.artifact
    statistics: dict[str, Any] = dict(corpus.manifest.statistics)
    facts = {
        "version": corpus.version,
        "content_digest": corpus.content_digest,
        "state": produced.state,
        **{key: statistics[key] for key in ("images", "captions", "rejects", "splits")},
    }
    rows = [
        (source, *(statistics[source][state] for state in _STATES), statistics["rejects"][source])
        for source in ("images", "captions")
    ]
    grid = Grid(("records", "input", "accepted", "rejected", "reasons"), rows)
    splits = Grid(
        ("split", "images", "captions"),
        [(split, statistics["splits"][split]["images"], statistics["splits"][split]["captions"]) for split in SPLITS],
    )
    hidden = frozenset({"version", "state", "images", "captions", "rejects", "splits"})
    return Result(f"corpus {corpus.version} ({produced.state})", facts, (grid, splits), hidden)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["ingest", *sys.argv[1:]])
