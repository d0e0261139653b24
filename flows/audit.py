"""`bcls audit`: what is wrong with a corpus and its labels, before a model is trained on them; reads only."""

from __future__ import annotations

from pathlib import Path

from bcls_core.audit import Audit, AuditSettings, Overlap, audit
from bcls_core.config import Recipe
from bcls_core.errors import UnknownArtifactError
from bcls_core.report.audit_page import render_audit_page, share
from bcls_core.store import Artifact
from flows import lineage
from flows.context import Context
from flows.pages import write_page
from flows.progress import progress_bar
from flows.result import Grid, Result

REJECTED = 3
_SHOWN = ("p5", "p50", "p95", "p99")
_SAMPLES = {
    "random": "random, different images",
    "same_image": "of one image",
    "nearest": "nearest, other images",
}


def run(
    context: Context,
    recipe: Recipe,
    settings: AuditSettings,
    *,
    corpus: str | None = None,
    labels: str | None = None,
    html: Path | None = None,
    fail_above: float | None = None,
) -> Result:
    """Audits the recipe's corpus and, if there is one, its label set.

    Args:
        fail_above: share of an evaluation split's captions or images that may leak; beyond it the exit code is 3.
    """
    found_corpus = lineage.find_corpus(context, recipe, corpus)
    found_labels, notes = _labels(context, recipe, found_corpus, labels)
    found = audit(found_corpus, found_labels, settings, progress=progress_bar)
    label_version = found_labels.version if found_labels else None
    if html is not None:
        page = render_audit_page(
            found, title=recipe.name, corpus=found_corpus.version, labels=label_version, notes=notes
        )
        write_page(html, page)
        notes = [*notes, f"page written to {html}"]
    rejected = fail_above is not None and found.worst_share > fail_above
    if rejected:
        notes = [*notes, f"rejected: {found.worst_share:.4f} of a split leaks, more than --fail-above {fail_above}"]
    facts = {"corpus": found_corpus.version, "labels": label_version, **found.as_dict(), "rejected": rejected}
    title = f"audit of corpus {found_corpus.version}, labels {label_version or 'none'}"
    return Result(title, facts, _grids(found), frozenset(facts), notes, exit_code=REJECTED if rejected else 0)


def _labels(
    context: Context, recipe: Recipe, corpus: Artifact, version: str | None
) -> tuple[Artifact | None, list[str]]:
    """The label set, or why there is none."""
    try:
        labels = lineage.find_labels(context, recipe, corpus, version)
    except UnknownArtifactError:
        if version is not None:
            raise
        return None, ["no label set of this recipe yet: captions were compared as text only (bcls label makes one)"]
    return labels, []


def _grids(found: Audit) -> list[Grid]:
    leaks = []
    for leak in found.leaks:
        for what, overlap in (("captions", leak.captions), ("images", leak.images)):
            counts = ", ".join(f"{how} {count:,}" for how, count in overlap.counts.items())
            leaks.append(
                (f"{leak.into} {what} in {leak.source}", overlap.total, overlap.affected, _share(overlap), counts)
            )
    spreads, negatives = [], []
    for name, measure in found.measures.items():
        percentiles = measure.spread.percentiles()
        for sample, text in _SAMPLES.items():
            if sample in percentiles:
                values = [f"{percentiles[sample][p]:.3f}" for p in _SHOWN]
                spreads.append((f"{name}, {measure.spread_split}: {text}", *values))
        for split, part in measure.false_negatives.items():
            pairs = f"{'at least ' if part.cut else ''}{part.pairs:,}"
            at = f"{name} ≥ {measure.false_negative:.3f}, {split}"
            negatives.append((at, part.captions, part.affected, share(part.affected, part.captions), pairs))
    grids = [Grid(("leakage", "of", "near duplicates", "share", "counts"), leaks)]
    if spreads:
        grids.append(Grid(("similarity of captions", *_SHOWN), spreads))
    if negatives:
        grids.append(Grid(("likely false negatives", "captions", "with one", "share", "pairs"), negatives))
    return grids


def _share(overlap: Overlap) -> str:
    return share(overlap.affected, overlap.total)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["audit", *sys.argv[1:]])
