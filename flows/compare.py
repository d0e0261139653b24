"""`bcls compare`: do models differ, by how much, how sure is that, and what was different about them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bcls_core.config import EvaluateSettings
from bcls_core.errors import InputError
from bcls_core.metrics.query_results import QueryResults, compare, incomparable, recipe_intervals
from bcls_core.metrics.significance import Difference, Interval
from bcls_core.store import Artifact
from bcls_core.training.references import References
from flows.context import Context
from flows.evaluate import evaluate, query_results
from flows.models import find_compared
from flows.result import Grid, Result, with_interval
from flows.tracking import flatten

SEED = "train.seed"
_SHOWN = (
    r"rsum",
    r"(i2t|t2i)/(r\d+|medr)",
    r"human/.*",
    r"sts/.*",
    r"coco-5k/.*(r\d+|rsum)|coco-1k/.*(r\d+|rsum)|cxc/.*(r\d+|rsum)|eccv/.*",
    r"(i2i|c2c)/r\d+",
    r"true/.*/(kendall|ncs10)",
    r"label/.*/(kendall|ncs10)",
)
"""Metrics that people see, in this order; programs get all of them."""

_LONGEST = 60


@dataclass(frozen=True)
class Group:
    """Trainings whose settings and inputs are the same but for the seed.

    Attributes:
        name: a letter, the baseline's is A.
        settings: what they share, flat.
        seeds: of each training.
    """

    name: str
    settings: dict[str, Any]
    trainings: list[Artifact]
    seeds: list[Any]

    @property
    def title(self) -> str:
        recipes = sorted({str(training.manifest.statistics["recipe"]) for training in self.trainings})
        return f"{self.name} ({', '.join(recipes)}, {len(self.trainings)} seed{'s'[: len(self.trainings) > 1]})"


def run(context: Context, runs: Sequence[str], settings: EvaluateSettings) -> Result:
    """Evaluates what was not evaluated before, and compares each group of seeds with that of the first run.

    Raises:
        InputError: a run is named twice, all are seeds of one recipe, or galleries differ.
    """
    groups = _groups(context, runs)
    references = References.read(settings)
    queries = [
        [
            query_results(context, evaluate(context, training, settings, references=references), references)
            for training in group.trainings
        ]
        for group in groups
    ]
    estimates = [recipe_intervals(seeds) for seeds in queries]
    differences = [compare(queries[0], seeds) for seeds in queries[1:]]
    changed = _changed(groups)
    not_compared = incomparable([seed for seeds in queries for seed in seeds])
    facts = {
        "split": settings.split,
        "confidence": 0.95,
        "groups": [
            {
                "name": group.name,
                "trainings": [training.version for training in group.trainings],
                "recipes": [str(training.manifest.statistics["recipe"]) for training in group.trainings],
                "seeds": group.seeds,
                "metrics": {name: found.as_dict() for name, found in intervals.items()},
            }
            for group, intervals in zip(groups, estimates, strict=True)
        ],
        "differences": [
            {"baseline": "A", "group": group.name, "metrics": {name: found.as_dict() for name, found in part.items()}}
            for group, part in zip(groups[1:], differences, strict=True)
        ],
        "settings": changed,
        "not_compared": not_compared,
    }
    title = f"{settings.split} split, {_gallery(queries[0][0])}; baseline {groups[0].title}"
    grids = [_settings_grid(groups, changed)]
    grids += [
        _differences_grid(groups[0], group, estimates[0], intervals, part)
        for group, intervals, part in zip(groups[1:], estimates[1:], differences, strict=True)
    ]
    return Result(title, facts, grids, frozenset(facts), hints=_notes(groups, not_compared))


def _groups(context: Context, runs: Sequence[str]) -> list[Group]:
    found: dict[str, Group] = {}
    named: dict[str, str] = {}
    for run_name in runs:
        training = find_compared(context, run_name)
        if training.version in named:
            raise InputError(f"{run_name} and {named[training.version]} are the same training. Name each once.")
        named[training.version] = run_name
        settings = _settings(context, training)
        seed = settings.pop(SEED, None)
        key = json.dumps(settings, sort_keys=True, default=str)
        if key not in found:
            found[key] = Group(_letter(len(found)), settings, [], [])
        found[key].trainings.append(training)
        found[key].seeds.append(seed)
    if len(found) < 2:
        raise InputError(
            f"the {len(runs)} runs differ in nothing but the seed, so they are one group. "
            "Name a run of another recipe, or with other settings."
        )
    return list(found.values())


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"G{place}"


def _settings(context: Context, training: Artifact) -> dict[str, Any]:
    """All that determines a training, flat: settings of its three stages, digests of models, versions of code."""
    labels, corpus = (context.store.resolve(kind, training.manifest.parents[kind]) for kind in ("labels", "corpus"))
    flat: dict[str, Any] = {"corpus": corpus.content_digest[:16], "labels": labels.content_digest[:16]}
    for stage, artifact in (("train", training), ("label", labels), ("ingest", corpus)):
        fingerprint: dict[str, Any] = dict(artifact.manifest.fingerprint)
        flat |= dict(flatten(fingerprint["settings"], f"{stage}."))
        flat |= dict(flatten(fingerprint.get("models", {}), f"{stage}.models."))
        flat |= dict(flatten({"algorithm": fingerprint["algorithm"]}, f"{stage}."))
    return flat


def _changed(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Setting -> its value in each group, None where a group has none; those in which groups differ."""
    names = sorted({name for group in groups for name in group.settings})
    values = {name: [group.settings.get(name) for group in groups] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _gallery(results: QueryResults) -> str:
    return f"{len(results.image_ids)} images, {len(results.caption_ids)} captions"


def _settings_grid(groups: Sequence[Group], changed: dict[str, list[Any]]) -> Grid:
    rows = [(name, *(_short(value) for value in values)) for name, values in changed.items()]
    rows.append((SEED, *(", ".join(map(str, group.seeds)) for group in groups)))
    return Grid(("what differs", *(group.title for group in groups)), rows)


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _differences_grid(
    baseline: Group,
    group: Group,
    ours: dict[str, Interval],
    theirs: dict[str, Interval],
    differences: dict[str, Difference],
) -> Grid:
    rows = []
    for name in (name for shown in _SHOWN for name in differences if re.fullmatch(shown, name)):
        found = differences[name]
        digits = 1 if _is_percent(name) else 3
        rows.append(
            (
                name,
                f"{ours[name].estimate:.{digits}f}",
                f"{theirs[name].estimate:.{digits}f}",
                with_interval(found.difference, (found.low, found.high), digits),
                f"{found.p_value:.3f}",
                "" if found.low <= 0 <= found.high else "*",
            )
        )
    return Grid(("metric", baseline.name, group.title, f"{group.name} - {baseline.name} [95 %]", "p", ""), rows)


def _is_percent(name: str) -> bool:
    figure = name.rsplit("/", 1)[-1]
    return figure in ("rsum", "medr", "meanr", "r1", "r5", "r10", "r_precision", "map_at_r")


def _notes(groups: Sequence[Group], not_compared: Sequence[str]) -> list[str]:
    notes = [
        "* the 95 % interval of the difference leaves out 0; p is two-sided and not corrected for the number of metrics"
    ]
    if not_compared:
        notes.append(f"not compared, since labels differ: agreement with {', '.join(not_compared)}")
    single = [group.name for group in groups if len(group.trainings) == 1]
    if single:
        notes.append(
            f"{', '.join(single)}: one seed. The intervals speak about these trained models, not about their recipes; "
            "train three seeds or more for that."
        )
    return notes


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["compare", *sys.argv[1:]])
