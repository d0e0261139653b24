"""Which published versions belong to a recipe: the newest ones made from the same settings and inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from bcls_core.config import KarpathyIngest, Recipe, content_of
from bcls_core.errors import ConfigError, CorpusError, UnknownArtifactError
from bcls_core.store import Artifact
from flows import determinants
from flows.context import Context
from flows.produce import version_of


def find_corpus(context: Context, recipe: Recipe, version: str | None) -> Artifact:
    """The corpus named by `version`, else the newest made from the recipe's ingest section."""
    if version is not None:
        return context.store.resolve("corpus", version)
    wanted = content_of(recipe.ingest)
    annotations = _annotations_digest(recipe)

    def belongs(fingerprint: dict[str, Any]) -> bool:
        inputs = fingerprint["inputs"]
        if isinstance(recipe.ingest, KarpathyIngest) and ("features" in inputs) != (recipe.ingest.features is not None):
            return False
        return fingerprint["settings"] == wanted and annotations in (None, inputs.get("annotations"))

    return _newest(context, "corpus", belongs, "bcls ingest")


def find_labels(context: Context, recipe: Recipe, corpus: Artifact, version: str | None) -> Artifact:
    """The label set named by `version`, else the one that the recipe's label section makes of this corpus."""
    if version is not None:
        labels = context.store.resolve("labels", version)
        require_of_corpus(labels, corpus)
        return labels
    wanted = version_of(determinants.of_labels(recipe.label, corpus, find_frequencies(context, recipe)))
    found = context.store.find("labels", wanted)
    if found is None:
        raise UnknownArtifactError(_missing(context, "label set", "bcls label"))
    return found


def require_of_corpus(labels: Artifact, corpus: Artifact) -> None:
    """Raises ConfigError where a label set was made from another corpus: equal ids would not show that."""
    if labels.manifest.fingerprint.get("corpus") != corpus.content_digest:
        other = labels.manifest.parents.get("corpus", "unknown")
        raise ConfigError(
            f"label set {labels.version} was made from corpus {other}, not from what corpus {corpus.version} holds. "
            "Name labels of this corpus, or label it: bcls label"
        )


_COUNTING = ("cider", "cider-d")


def find_frequencies(context: Context, recipe: Recipe) -> Artifact | None:
    """The label set whose document frequencies the recipe uses, None if it counts its own or needs none.

    Raises:
        ConfigError: it has none, or of another version.
    """
    from bcls_core.similarity import ALGORITHM_VERSIONS
    from bcls_core.similarity.labels import FREQUENCIES

    version = recipe.label.frequencies_of
    if version is None:
        return None
    labels = context.store.resolve("labels", version)
    if FREQUENCIES not in labels.tables:
        raise ConfigError(
            f"label.frequencies_of: labels {labels.version} hold no document frequencies, for no measure of theirs "
            "counts n-grams. Name a label set with a measure of kind cider or cider-d."
        )
    fingerprint: dict[str, Any] = dict(labels.manifest.fingerprint)
    made_by = fingerprint.get("algorithm", {})
    if other := [kind for kind in _COUNTING if made_by.get(kind, ALGORITHM_VERSIONS[kind]) != ALGORITHM_VERSIONS[kind]]:
        raise ConfigError(
            f"label.frequencies_of: labels {labels.version} were made by another version of {' and '.join(other)}, "
            "whose n-grams may be others. Leave it out once, and name the label set that is made then."
        )
    return labels


def _newest(context: Context, kind: str, belongs: Callable[[dict[str, Any]], bool], command: str) -> Artifact:
    for info in context.store.list(kind):
        artifact = context.store.resolve(kind, info.version)
        if belongs(artifact.manifest.fingerprint):
            return artifact
    raise UnknownArtifactError(_missing(context, kind, command))


def _missing(context: Context, what: str, command: str) -> str:
    return (
        f"{context.root}: holds no {what} made from this recipe. Make it first, by `{command}` with the same "
        f"-c, --set and --root, or name a version that exists (bcls artifacts list --root {context.root})."
    )


def _annotations_digest(recipe: Recipe) -> str | None:
    """Tells two datasets with the same settings apart; None where the raw annotations are not on this machine."""
    if not isinstance(recipe.ingest, KarpathyIngest) or not recipe.ingest.annotations.is_file():
        return None
    with recipe.ingest.annotations.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_split(corpus: Artifact, split: str) -> None:
    """Refuses a corpus without images in a split, before anything is computed from it.

    Raises:
        CorpusError: naming the splits there are.
    """
    statistics: dict[str, Any] = dict(corpus.manifest.statistics)
    splits = statistics["splits"]
    if not splits[split]["images"]:
        there = ", ".join(f"{name} {counts['images']}" for name, counts in splits.items())
        raise CorpusError(
            f"corpus {corpus.version} has no images in split {split} (images: {there}). "
            "Map splits of the source in the recipe (ingest.splits), or choose another (evaluate.split)."
        )
