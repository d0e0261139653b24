"""A finished student on a split: what each query earns, by every measure that there is something to judge by."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcls_core.config import Split
from bcls_core.data.lost_captions import images_short_of_captions
from bcls_core.data.ratings import CaptionPairs, Ratings, resolve
from bcls_core.data.rows import CorpusRows
from bcls_core.data.truth import true_relevance
from bcls_core.errors import InputError
from bcls_core.metrics.coco import coco_queries_from_scores
from bcls_core.metrics.coherence import TOP
from bcls_core.metrics.graded import GradedQueries, graded_queries
from bcls_core.metrics.human import RatedPairs, rated_pairs
from bcls_core.metrics.query_results import QueryResults, Values
from bcls_core.metrics.ranks import best_ranks, positives_of_captions
from bcls_core.metrics.strips import Products, Scores, Strips
from bcls_core.metrics.unimodal import caption_cosines, same_group_ranks
from bcls_core.similarity import LabelSetRelevance, measures_of
from bcls_core.store import Artifact
from bcls_core.students import Student, load_student
from bcls_core.training.batches import InputSource
from bcls_core.training.encode_frozen import FrozenEncoder, KeptFeatures, encode_frozen
from bcls_core.training.frozen import FrozenFeatures
from bcls_core.training.gallery import LabelStrips, pair_scores, scores_of
from bcls_core.training.history import MODEL
from bcls_core.training.references import References
from bcls_core.training.validate import encode_split
from bcls_core.workers import Workers

_TEXTS = 128


class EvaluateTraining:
    """Piece worker: all metrics of one training's model on one split.

    Returns `metrics`, `intervals` (name to [low, high]) and `queries` (file name to Base64 of Parquet).
    """

    def __init__(
        self,
        corpus: Artifact,
        labels: Artifact,
        training: Artifact,
        references: References,
        device: str,
        kept: KeptFeatures | None = None,
    ) -> None:
        """
        Args:
            kept: features of the model's frozen towers; None to make them.
        """
        self._corpus = corpus
        self._labels = labels
        self._references = references
        self._student = load_student(training.local(MODEL)).to(device).eval()
        self._frozen = FrozenEncoder(self._student, device, kept)
        self._device = torch.device(device)

    def __call__(self, piece: dict[str, Any]) -> dict[str, Any]:
        results = evaluate(
            self._student,
            self._corpus,
            self._labels,
            piece["split"],
            self._references,
            device=self._device,
            frozen=self._frozen,
        )
        chance = 100.0 * min(10, len(results.image_ids)) / len(results.image_ids)
        sizes = {"images": len(results.image_ids), "captions": len(results.caption_ids), "chance/t2i/r10": chance}
        return {
            "metrics": results.metrics() | sizes,
            "intervals": {name: [found.low, found.high] for name, found in results.intervals().items()},
            "queries": {name: base64.b64encode(data).decode() for name, data in results.to_files().items()},
        }


@torch.no_grad()
def evaluate(
    student: Student,
    corpus: Artifact,
    labels: Artifact,
    split: Split,
    references: References = References(),  # noqa: B008 - frozen
    *,
    device: torch.device | None = None,
    frozen: FrozenEncoder | None = None,
) -> QueryResults:
    """What each query of a split earns from a student.

    Columns: retrieval (`i2t/rank`, `t2i/rank`); for each measure of the label set the agreement of scores with labels
    (`label/MEASURE/i2t/kendall`, `spearman`, `cs10`, `ncs10`, …), and with the truth where the corpus carries it
    (`true/…`); caption-to-caption retrieval (`c2c/rank`), for a student whose score is a product; and what
    `references` ask for: `human/…`, `sts/…`, `i2i/rank`, `coco-5k/…`, `eccv/…` and so on.

    Args:
        frozen: makes or finds the features of the student's frozen towers; without, they see each batch as it comes.
    Raises:
        InputError: references are of another dataset.
        ShapeError: a score is NaN.
    """
    rows = CorpusRows(corpus, split)
    features = encode_frozen(frozen, rows) if frozen else FrozenFeatures()
    source = InputSource(rows, student.preprocessor, features)
    images, captions = encode_split(student, source, Workers(), device or torch.device("cpu"))
    scores = scores_of(student, images, captions)
    own = positives_of_captions(rows.caption_image, rows.image_count)
    i2t, t2i = best_ranks(scores, *own)
    per_image, per_caption = {"i2t/rank": _ranks(i2t)}, {"t2i/rank": _ranks(t2i)}

    def add(prefix: str, relevance: Scores) -> None:
        directions = graded_queries(scores, relevance, own, ks=TOP)
        for columns, direction, found in zip((per_image, per_caption), ("i2t", "t2i"), directions, strict=True):
            columns |= {f"{prefix}/{direction}/{name}": values for name, values in _figures(found).items()}

    relevances: dict[str, str] = {}
    for measure in measures_of(labels):
        relevances[f"label/{measure}"] = _identity(labels, measure)
        add(f"label/{measure}", LabelStrips(rows, LabelSetRelevance(labels, measure, split)))
    truth = true_relevance(corpus, rows.image_ids)
    if truth is not None:
        relevances["true"] = sha256(truth.tobytes()).hexdigest()
        add("true", truth[:, rows.caption_image])
    if references.coco is not None:
        found = coco_queries_from_scores(scores, rows.caption_ids, rows.caption_image, ground_truth=references.coco)
        per_image |= _with_direction(found.per_image, "i2t")
        per_caption |= _with_direction(found.per_caption, "t2i")
    if isinstance(scores, Products):
        if (np.bincount(rows.caption_image) > 1).any():
            per_caption["c2c/rank"] = _ranks(same_group_ranks(scores.caption_encodings, rows.caption_image))
        if references.image_groups is not None:
            groups = _groups_of(rows.image_ids, references.image_groups)
            per_image["i2i/rank"] = _ranks(same_group_ranks(scores.image_encodings, groups))
    elif references.image_groups is not None:
        raise InputError(
            "image groups: this student's score is no product of encodings, so images have no score with each other. "
            "Leave the groups out."
        )
    return QueryResults(
        rows.image_ids,
        rows.caption_ids,
        rows.caption_image,
        _digest_of(rows),
        relevances,
        per_image,
        per_caption,
        {ratings.name: _rated(scores, rows, ratings) for ratings in references.ratings},
        {pairs.name: _alike(student, pairs, images.device) for pairs in references.caption_pairs},
    )


def _digest_of(rows: CorpusRows) -> str:
    """sha256 of the captions of a split, in row order."""
    total = sha256()
    for start in range(0, rows.caption_count, _TEXTS):
        for text in rows.captions(np.arange(start, min(start + _TEXTS, rows.caption_count))):
            total.update(text.encode() + b"\0")
    return total.hexdigest()


def _identity(labels: Artifact, measure: str) -> str:
    """Digest of all that determines a measure's labels, whatever the label set is called."""
    fingerprint: dict[str, Any] = dict(labels.manifest.fingerprint)
    settings = fingerprint.get("settings", {}).get("measures", {}).get(measure)
    if settings is None:
        return labels.content_digest
    model = fingerprint.get("models", {}).get(measure)
    determined = [settings, model, fingerprint.get("algorithm"), fingerprint.get("corpus")]
    return sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()


def _ranks(ranks: Any) -> Values:
    """As a column: NaN where nothing is asked."""
    return np.where(ranks < 0, np.nan, ranks).astype(np.float64)


def _figures(found: GradedQueries) -> dict[str, Values]:
    return {
        "kendall": found.kendall,
        "spearman": found.spearman,
        **{f"cs{k}": values for k, values in found.coherence.items()},
        **{f"ncs{k}": values for k, values in found.gain.items()},
    }


def _with_direction(columns: Mapping[str, Values], direction: str) -> dict[str, Values]:
    """`eccv/r1` as `eccv/i2t/r1`, and shares in percent."""
    result = {}
    for name, values in columns.items():
        benchmark, _, figure = name.partition("/")
        result[f"{benchmark}/{direction}/{figure}"] = values if figure == "rank" else 100 * values
    return result


def _groups_of(image_ids: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    missing = [image_id for image_id in image_ids if image_id not in groups]
    if missing:
        raise InputError(
            f"image groups: {len(missing)} of {len(image_ids)} images have none, such as {missing[0]!r}. "
            "Give the group of every image of the split."
        )
    found = [groups[image_id] for image_id in image_ids]
    if len(set(found)) == len(found):
        raise InputError(
            f"image groups: each of the {len(found)} images of the split is alone in its group, so there is nothing to "
            "find. Give images of one kind the same group, or leave --image-groups out."
        )
    return found


def _rated(scores: Strips, rows: CorpusRows, ratings: Ratings) -> RatedPairs:
    incomplete = images_short_of_captions(rows)
    found = resolve(ratings, rows.image_ids, rows.caption_ids, rows.caption_image, incomplete)
    values = pair_scores(scores, found.image_rows, found.caption_rows)
    return replace(rated_pairs(values, found.ratings, found.image_rows, own=found.own), missing=found.missing)


def _alike(student: Student, pairs: CaptionPairs, device: torch.device) -> RatedPairs:
    """Cosines of the encodings of both captions."""
    first, second = (_encode_texts(student, texts, device) for texts in (pairs.first, pairs.second))
    cosines = caption_cosines(first, second).astype(np.float64)
    return RatedPairs(cosines, pairs.scores, np.arange(len(cosines)), 0)


def _encode_texts(student: Student, texts: Sequence[str], device: torch.device) -> Tensor:
    parts = []
    for start in range(0, len(texts), _TEXTS):
        inputs = student.prepare_captions(texts[start : start + _TEXTS])
        parts.append(student.encode_captions({name: tensor.to(device) for name, tensor in inputs.items()}))
    return torch.cat(parts).float().cpu()
