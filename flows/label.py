"""`bcls label`: a corpus's captions to representations, neighbours and gap quantiles."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from bcls_core.config import EmbeddingMeasureSettings, IvfSearch, Recipe
from bcls_core.errors import StoreError
from bcls_core.similarity import load_gaps
from bcls_core.similarity.corpus_splits import CorpusSplits, splits_of
from bcls_core.similarity.image_labels import RepresentImages, SearchImages, require_readable
from bcls_core.similarity.ivf_recall import Recall, require_recall
from bcls_core.similarity.labels import EstimateGaps, FitFrequencies, RepresentShard
from bcls_core.similarity.neighbour_labels import FitIvf, GatherSplit, MeasureRecall, SearchPanel
from bcls_core.store import Artifact, Draft
from bcls_core.store.canonical import as_json
from flows import determinants, lineage
from flows.backend import Record, WorkerClass, origins, results
from flows.context import Context
from flows.produce import Making, Produced, produce
from flows.result import Grid, Result
from flows.tracking import Job

log = logging.getLogger(__name__)

_SHOWN_PERCENTILES = (10, 25, 50, 60, 75, 90)


def run(context: Context, recipe: Recipe, *, corpus: str | None = None) -> Result:
    """Labels the recipe's corpus, unless the same label set is published already."""
    return report(label(context, recipe, lineage.find_corpus(context, recipe, corpus)))


def label(context: Context, recipe: Recipe, corpus: Artifact) -> Produced:
    """The published label set of a corpus."""
    for name, teacher in recipe.label.image_teachers.items():
        require_readable(name, teacher, corpus)
    frequencies = lineage.find_frequencies(context, recipe)
    determined = determinants.of_labels(recipe.label, corpus, frequencies)
    return produce(
        context,
        Making(
            kind="labels",
            flow="label",
            determinants=determined,
            compute=lambda draft, job: _compute(context, recipe, corpus, frequencies, determined, draft, job),
            record=lambda job, labels: _record(job, recipe, corpus, labels),
        ),
    )


def _compute(
    context: Context,
    recipe: Recipe,
    corpus: Artifact,
    frequencies: Artifact | None,
    determined: dict[str, Any],
    draft: Draft,
    job: Job,
) -> Artifact:
    settings = recipe.label
    earlier = _earlier(context, determined)
    places = {"root": context.root, "corpus": corpus.version, "labels": draft.version, "earlier": earlier}
    captions = [part.rows or 0 for part in corpus.parts("captions")]
    splits = CorpusSplits(corpus).of_shard
    records: list[Record] = []

    def stage(worker: WorkerClass, pieces: list[dict[str, Any]], what: str, **arguments: Any) -> list[dict[str, Any]]:
        done = context.backend.run(worker, places | arguments, pieces, draft=draft, what=what)
        records.extend(done)
        return results(done)

    embeddings = [name for name, kind in settings.measures.items() if isinstance(kind, EmbeddingMeasureSettings)]
    approximate = isinstance(settings.search, IvfSearch)
    if settings.counts_ngrams:
        of = None if frequencies is None else frequencies.version
        stage(FitFrequencies, [{"piece": "fit-frequencies"}], "counting n-grams", frequencies_of=of)
    for name, measure in settings.measures.items():
        pieces = [
            {"piece": f"represent-{name}-{shard:05d}", "shard": shard, "work": 1 + captions[shard]}
            for shard in range(len(captions))
        ]
        stage(RepresentShard, pieces, f"{name}: captions", measure=name, settings=measure, device=context.device)
    for name, teacher in settings.image_teachers.items():
        pieces = [{"piece": f"images-{name}-{shard:05d}", "shard": shard} for shard in range(len(captions))]
        told = {"teacher": name, "settings": teacher, "fingerprint": determined["image models"][name]}
        stage(RepresentImages, pieces, f"{name}: images", device=context.device, **told)
        images = [part.rows or 0 for part in corpus.parts("images")]
        pieces = panels(f"image-neighbours-{name}", splits_of(corpus, "images"), images, context.runtime.panel_captions)
        stage(SearchImages, pieces, f"{name}: neighbours", teacher=name, settings=settings)
    recalls: dict[str, dict[str, Any]] = {}
    built: dict[str, dict[str, int]] = {}
    upon: set[str] = set()
    for name in settings.measures:
        of_measure = {"measure": name, "settings": settings}
        if name in embeddings:
            stage(GatherSplit, _by_split(f"gather-{name}", splits), f"{name}: gathering", **of_measure)
        if approximate:
            stage(FitIvf, _by_split(f"fit-ivf-{name}", splits), f"{name}: clusters", **of_measure)
        pieces = panels(f"neighbours-{name}", splits, captions, context.runtime.panel_captions)
        found = stage(SearchPanel, pieces, f"{name}: neighbours", **of_measure)
        built[name] = {how: sum(record.get(how, 0) for record in found) for how in ("kept", "repaired", "new")}
        upon.update(record["upon"] for record in found if "upon" in record)
        if approximate:
            found = stage(MeasureRecall, _by_split(f"recall-{name}", splits), f"{name}: recall", **of_measure)
            recalls[name] = {record["split"]: record["recall"] for record in found}
    gaps = {"measures": settings.measures, "pairs": settings.gap_pairs, "seed": settings.seed}
    stage(EstimateGaps, [{"piece": "gap-quantiles"}], "label gaps", **gaps)
    if isinstance(settings.search, IvfSearch):
        for name, of_split in recalls.items():
            for split, recall in of_split.items():
                require_recall(Recall(**recall), settings.search.recall_floor, f"{name}, split {split}")
    return draft.commit(
        fingerprint=determined,
        schema="labels/1",
        parents={"corpus": corpus.version},
        statistics={"recipe": recipe.name, "measures": sorted(settings.measures)}
        | ({"image_teachers": sorted(settings.image_teachers)} if settings.image_teachers else {})
        | ({"recall": recalls} if approximate else {}),
        sidecar={"mlflow_run": job.run_id, "pieces": origins(records), "starts": draft.starts()}
        | ({} if frequencies is None else {"frequencies of": frequencies.version})
        | ({"built upon": sorted(upon), "lists": built} if upon else {}),
    )


def _earlier(context: Context, determined: dict[str, Any]) -> str | None:
    """The newest published label set that another corpus alone makes different, and whose corpus is still there.

    Its document frequencies may be others: its lists of n-gram measures are then of no use, but all others are.
    """

    def settled(determinants: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in determinants.items() if name not in ("corpus", "frequencies")}

    wanted = settled(as_json(determined))
    for publication in sorted(context.store.publications("labels"), key=lambda one: -one.sequence):
        try:
            labels = context.store.find("labels", publication.version)
            if labels is None or settled(labels.manifest.fingerprint) != wanted:
                continue
            corpus = context.store.find("corpus", labels.manifest.parents["corpus"])
            if corpus is not None and corpus.content_digest == labels.manifest.fingerprint["corpus"]:
                return labels.version
        except StoreError as error:
            log.warning("labels %s are not built upon: %s", publication.version, error)
    return None


def panels(name: str, splits: list[str | None], captions: list[int], most: int) -> list[dict[str, Any]]:
    """Pieces of shards that lie side by side in one split, with at most `most` captions where a shard has no more.

    Args:
        splits, captions: of each shard.
    """
    cut: list[list[int]] = []
    for shard, split in enumerate(splits):
        last = cut[-1] if cut else []
        fits = last and splits[last[-1]] == split and sum(captions[s] for s in last) + captions[shard] <= most
        if fits:
            last.append(shard)
        else:
            cut.append([shard])
    of_split: dict[str | None, int] = dict.fromkeys(splits, 0)
    for split, count in zip(splits, captions, strict=True):
        of_split[split] += count
    return [
        {
            "piece": f"{name}-{shards[0]:05d}-{shards[-1]:05d}",
            "shards": shards,
            "work": 1 + sum(captions[shard] for shard in shards) * of_split[splits[shards[0]]],
        }
        for shards in cut
    ]


def _by_split(name: str, splits: list[str | None]) -> list[dict[str, Any]]:
    return [{"piece": f"{name}-{split}", "split": split} for split in dict.fromkeys(splits) if split is not None]


def _record(job: Job, recipe: Recipe, corpus: Artifact, labels: Artifact) -> None:
    from bcls_core.report.figures import label_quantiles

    gaps = load_gaps(labels)
    job.log_params({"label": recipe.label.model_dump(mode="json")})
    job.log_inputs([corpus])
    for name, quantiles in gaps.items():
        job.log_metrics({f"gap/{name}/p{p}": quantiles.values[p] for p in _SHOWN_PERCENTILES})
    statistics: dict[str, Any] = dict(labels.manifest.statistics)
    recalls: dict[str, Any] = statistics.get("recall", {})
    for name, of_split in recalls.items():
        job.log_metrics({f"recall/{name}/{split}": recall["recall"] for split, recall in of_split.items()})
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
    with contextlib.suppress(StoreError):  # a damaged sidecar is no part of the labels
        if "built upon" in labels.sidecar:
            facts["built upon"] = f"labels {', '.join(labels.sidecar['built upon'])}"
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
