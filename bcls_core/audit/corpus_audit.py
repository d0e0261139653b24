"""The whole audit of a corpus and its label set: what leaks between splits, and which labels contradict annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bcls_core.audit.digests import Digests, first_equal
from bcls_core.audit.false_negatives import find_false_negatives, nearest_scores
from bcls_core.audit.features import nearest_features
from bcls_core.audit.findings import Audit, Leak, Match, MeasureFindings, Overlap
from bcls_core.audit.labelled import LabelledMeasure, SplitCaptions
from bcls_core.audit.nearest import nearest_of_chunks
from bcls_core.audit.pictures import NEAR_BITS, PictureSigns, match_pictures, sign_pictures
from bcls_core.audit.repeated_captions import split_digests
from bcls_core.audit.spread import sample_spread
from bcls_core.data.rows import CorpusRows
from bcls_core.data.schema import SPLITS
from bcls_core.errors import ConfigError
from bcls_core.similarity import measures_of
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.store import Artifact

NEAR_COSINE = 0.9
"""Of the features of two images; made for MobileNetV2, other encoders differ.

Of 501,501 pairs of COCO images none reaches it, of 28 million pairs of Flickr8k images one, whose features are equal.
All copies of 201 COCO images saved as JPEG of quality 50 reach it, and most that were shrunk to half the size.
"""

LEAST_NEAR = 0.8
"""No default threshold of near duplicates is below it.

Captions of one image share few word sequences (99th percentile of CIDEr in Flickr30k: 0.46), and so do captions of
different ones at that similarity; from 0.8 on they differ in a word or two.
"""

LEAST_FALSE_NEGATIVE = 0.5
"""No default threshold of false negatives is below it.

A measure that sees little in common between captions of one image (CIDEr in Flickr8k: a median label of 0.15) finds as
much between captions of different ones by chance.
"""

PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
_CACHE_BYTES = 64 * 2**20

Found = tuple[FloatArray, IntArray]


class Progress(Protocol):
    """Shows how far a piece of work is."""

    def __call__(self, what: str, *, total: int) -> AbstractContextManager[Callable[[int], None]]: ...


def _silent(what: str, *, total: int) -> AbstractContextManager[Callable[[int], None]]:  # noqa: ARG001
    return nullcontext(lambda _: None)


@dataclass(frozen=True)
class AuditSettings:
    """What counts as alike, and how much is shown.

    Attributes:
        near: measure -> similarity from which captions of two splits are near duplicates. Default: the 99th percentile
            of pairs of captions of one image, at least 0.8: people who describe the same picture seldom write anything
            as alike.
        false_negative: measure -> label from which a pair that nobody annotated is a likely false negative. Default:
            the median label that captions would have for their own image, had they been written for another one, at
            least 0.5: the pair then fits better than half of the annotated ones.
        bits: of 256 in which difference hashes of one picture may differ.
        cosine: from which features are of one picture.
        pairs: sampled for each spread of similarities.
        examples: shown of each kind.
    """

    near: Mapping[str, float] = field(default_factory=dict)
    false_negative: Mapping[str, float] = field(default_factory=dict)
    bits: int = NEAR_BITS
    cosine: float = NEAR_COSINE
    pairs: int = 50_000
    examples: int = 8
    seed: int = 0


def audit(
    corpus: Artifact, labels: Artifact | None, settings: AuditSettings | None = None, *, progress: Progress = _silent
) -> Audit:
    """Looks for near duplicates between splits and for likely false negatives inside them; reads only.

    Memory: digests and hashes of all captions and images (16 and 64 bytes each), ids, one row group of images, and of
    one measure the representations of an evaluation split.

    Args:
        labels: of this corpus; without, captions are compared as text only, and no labels are judged.
    Raises:
        ConfigError: the settings name a measure that the label set does not hold.
        StoreError: a file is missing or damaged.
    """
    settings = settings or AuditSettings()
    measures = [] if labels is None else measures_of(labels)
    for option, named in (("near", settings.near), ("false_negative", settings.false_negative)):
        if strangers := sorted(set(named) - set(measures)):
            held = ", ".join(measures) or "none"
            raise ConfigError(f"{option}: no measure {strangers[0]!r} in the label set. It holds {held}.")
    rows = {split: CorpusRows(corpus, split, cache_bytes=_CACHE_BYTES) for split in SPLITS}
    pairs = [(a, b) for a, b in PAIRS if rows[a].caption_count and rows[b].caption_count]
    images = _images(rows, pairs, settings, progress)
    digests = {split: split_digests(part) for split, part in rows.items()}
    found: dict[str, MeasureFindings] = {}
    near: dict[str, dict[tuple[str, str], Found]] = {}
    for name in measures:
        assert labels is not None  # noqa: S101 - else there are no measures
        with progress(f"{name}: captions", total=len(pairs) + 1) as advance:
            found[name], near[name] = _measure(LabelledMeasure(labels, name), rows, pairs, settings, advance)
    leaks = []
    for pair in pairs:
        thresholds = {name: found[name].near for name in measures}
        matched = {name: near[name][pair] for name in measures}
        leaks.append(Leak(*pair, _captions(rows, pair, digests, matched, thresholds, settings.examples), images[pair]))
    return Audit(rows, leaks, found)


def _images(
    rows: Mapping[str, CorpusRows], pairs: list[tuple[str, str]], settings: AuditSettings, progress: Progress
) -> dict[tuple[str, str], Overlap]:
    if not next(iter(rows.values())).has_images:
        return {pair: _features(rows[pair[1]], rows[pair[0]], settings) for pair in pairs}
    signs: dict[str, PictureSigns] = {}
    with progress("images", total=sum(part.image_count for part in rows.values())) as advance:
        for split, part in rows.items():
            signs[split] = sign_pictures(part, advance)
    return {(a, b): _pictures(rows[b], signs[b], rows[a], signs[a], settings.bits, settings.examples) for a, b in pairs}


def _pictures(
    into: CorpusRows, into_signs: PictureSigns, source: CorpusRows, source_signs: PictureSigns, bits: int, examples: int
) -> Overlap:
    found = match_pictures(into, into_signs, source, source_signs, within=bits)
    counts = {"file": int((found.files >= 0).sum()), "pixels": int((found.pixels >= 0).sum())}
    counts["hash"] = int((found.near >= 0).sum())
    worst = []
    order = np.lexsort((np.arange(len(found.bits)), found.bits))
    for row in order[found.near[order] >= 0][:examples].tolist():
        how = "file" if found.files[row] >= 0 else "pixels" if found.pixels[row] >= 0 else "hash"
        worst.append(Match(row, int(found.near[row]), how, float(found.bits[row])))
    return Overlap(into.image_count, counts, counts["hash"], worst)


def _features(into: CorpusRows, source: CorpusRows, settings: AuditSettings) -> Overlap:
    scores, places = nearest_features(into, source)
    near = np.flatnonzero(scores >= np.float32(settings.cosine))
    order = near[np.argsort(-scores[near], kind="stable")][: settings.examples]
    worst = [Match(row, int(places[row]), "features", float(scores[row])) for row in order.tolist()]
    return Overlap(into.image_count, {"features": len(near)}, len(near), worst)


def _measure(
    measure: LabelledMeasure,
    rows: Mapping[str, CorpusRows],
    pairs: list[tuple[str, str]],
    settings: AuditSettings,
    advance: Callable[[int], None],
) -> tuple[MeasureFindings, dict[tuple[str, str], Found]]:
    captions = {split: SplitCaptions(part) for split, part in rows.items()}
    split = next((split for split in SPLITS if rows[split].caption_count), SPLITS[0])
    spread = sample_spread(
        measure,
        captions[split],
        nearest=nearest_scores(measure, rows[split]),
        pairs=settings.pairs,
        seed=settings.seed,
    )
    unusual = _percentile(spread.same_image, 99)
    near = settings.near.get(measure.name, None if unusual is None else max(unusual, LEAST_NEAR))
    usual = _percentile(spread.own_label, 50)
    threshold = settings.false_negative.get(measure.name, None if usual is None else max(usual, LEAST_FALSE_NEGATIVE))
    negatives = {}
    if threshold is not None:
        for name, part in rows.items():
            if part.caption_count:
                negatives[name] = find_false_negatives(
                    measure, part, captions[name], threshold=threshold, examples=settings.examples
                )
    advance(1)
    found: dict[tuple[str, str], Found] = {}
    for a, b in pairs:
        scores, ids = nearest_of_chunks(
            measure.similarity, measure.take(captions[b].ids), measure.chunks(captions[a].ids)
        )
        # From ids in ascending order to row numbers of both splits.
        row_scores, row_places = np.empty_like(scores), np.empty_like(ids)
        row_scores[captions[b].rows] = scores
        row_places[captions[b].rows] = captions[a].rows[captions[a].places_of(ids)]
        found[a, b] = row_scores, row_places
        advance(1)
    return MeasureFindings(near, threshold, split, spread, negatives), found


def _captions(
    rows: Mapping[str, CorpusRows],
    pair: tuple[str, str],
    digests: Mapping[str, Digests],
    found: Mapping[str, Found],
    thresholds: Mapping[str, float | None],
    examples: int,
) -> Overlap:
    into = rows[pair[1]]
    equal = first_equal(digests[pair[1]], digests[pair[0]])
    counts = {"equal": int((equal >= 0).sum())}
    affected = equal >= 0
    worst = _longest(into, equal, examples)
    for name, (scores, places) in found.items():
        threshold = thresholds[name]
        if threshold is None:
            continue
        near = scores >= np.float32(threshold)
        counts[name] = int(near.sum())
        affected |= near
        order = np.flatnonzero(near & (equal < 0))
        order = order[np.argsort(-scores[order], kind="stable")][:examples]
        worst += [Match(row, int(places[row]), name, float(scores[row])) for row in order.tolist()]
    return Overlap(into.caption_count, counts, int(affected.sum()), worst)


def _longest(into: CorpusRows, equal: IntArray, examples: int) -> list[Match]:
    """Equal captions, the longest first and each text once: short ones are often equal by chance."""
    lengths: list[tuple[int, int]] = []
    seen: set[int] = set()
    for shard in into.shards:
        _, numbers = into.rows_of_shard(shard)
        places = np.flatnonzero(equal[numbers] >= 0)
        texts = into.corpus.read("captions", shard, ["caption"])["caption"].take(places).to_pylist()
        for row, text in zip(numbers[places].tolist(), texts, strict=True):
            if int(equal[row]) not in seen:
                seen.add(int(equal[row]))
                lengths.append((-len(text), row))
        lengths = sorted(lengths)[:examples]
    return [Match(row, int(equal[row]), "equal", 1.0) for _, row in lengths]


def _percentile(values: FloatArray, percentile: float) -> float | None:
    return float(np.percentile(values, percentile)) if len(values) else None
