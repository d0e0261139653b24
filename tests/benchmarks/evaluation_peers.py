"""What `tests.benchmarks.evaluation` measures against: the package `eccv_caption`, sorting everything, and scipy."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from eccv_caption import Metrics
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from bcls_core.compiled import over_rows
from bcls_core.metrics import CocoGroundTruth
from bcls_core.metrics.coco_ground_truth import FOLDS, Relevance
from bcls_core.metrics.ranks import Integers

Floats = NDArray[np.float32]
Places = NDArray[np.int32]
Rankings = dict[int, list[int]]

_BLOCK = 512  # queries sorted at a time
_EVERYTHING = ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "coco_1k_recalls", "coco_5k_recalls", "cxc_recalls")


def rankings(truth: CocoGroundTruth, images: Floats, captions: Floats) -> tuple[Rankings, Rankings]:
    """Ids of the whole gallery for each query, best first, by the float32 product; made on all threads."""
    scores = images @ captions.T
    image_ids, caption_ids = truth.images.values, truth.captions.values
    return _ranked(scores, image_ids, caption_ids), _ranked(scores.T, caption_ids, image_ids)


def _ranked(scores: Floats, queries: Integers, entries: Integers) -> Rankings:
    # All lists share one object for each id: no new numbers are made, which takes most of the time otherwise.
    ids, found = np.array(entries.tolist(), object), {}
    for start in range(0, len(queries), _BLOCK):
        strip = np.ascontiguousarray(-scores[start : start + _BLOCK])
        order = np.empty(strip.shape, np.int64)

        def sort(part: slice, strip: Floats = strip, order: Integers = order) -> None:
            order[part] = np.argsort(strip[part], axis=1)

        over_rows(sort, len(strip), strip.size * 64)
        found.update(zip(queries[start : start + _BLOCK].tolist(), ids[order].tolist(), strict=True))
    return found


def eccv_caption(package: Metrics, i2t: Rankings, t2i: Rankings) -> dict[str, float]:
    """All metrics of the package, asked for as its documentation does, under this project's names and in percent."""
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting silences
        found = package.compute_all_metrics(i2t, t2i, target_metrics=_EVERYTHING, Ks=(1, 5, 10), verbose=False)
    result = {}
    for name, values in found.items():
        benchmark, figure = name.replace("coco_", "coco-").replace("rprecision", "r_precision").split("_", 1)
        result |= {f"{benchmark}/{direction}/{figure}": 100 * float(value) for direction, value in values.items()}
    return result


def score_matrix(images: Floats, captions: Floats) -> Floats:
    """(images, captions) float64 products rounded to float32."""
    return (images.astype(np.float64) @ captions.astype(np.float64).T).astype(np.float32)


def brute_force(truth: CocoGroundTruth, images: Floats, captions: Floats) -> dict[str, float]:
    """Every row and every column of the whole score matrix sorted, and once more within the folds."""
    scores, result = score_matrix(images, captions), {}
    for direction, of_direction, own, folds in directions(truth, scores):
        whole, in_fold = _places(of_direction), np.zeros(of_direction.shape, np.int32)
        for fold in range(FOLDS):
            part = np.ix_(*(np.flatnonzero(side == fold) for side in folds))
            in_fold[part] = _places(of_direction[part])
        for name, places in (("coco-1k", in_fold), ("coco-5k", whole), ("cxc", whole)):
            result |= _recalls(f"{name}/{direction}", places, own[name])
        result |= _precisions(f"eccv/{direction}", whole, own["eccv"])
    return result


def directions(
    truth: CocoGroundTruth, scores: Floats
) -> Iterator[tuple[str, Floats, dict[str, Relevance], tuple[Integers, Integers]]]:
    """Name, (queries, entries) scores, answers by benchmark, and the folds of queries and of entries."""
    judgements = {"coco-1k": truth.coco, "coco-5k": truth.coco, "cxc": truth.cxc, "eccv": truth.eccv}
    folds = truth.image_fold, truth.caption_fold
    yield "i2t", scores, {name: both.i2t for name, both in judgements.items()}, folds
    yield "t2i", scores.T, {name: both.t2i for name, both in judgements.items()}, folds[::-1]


def _places(scores: Floats) -> Places:
    """(queries, entries) rank of every entry, from 0."""
    places = np.empty(scores.shape, np.int32)
    counting = np.arange(scores.shape[1], dtype=np.int32)[None]
    for start in range(0, len(scores), _BLOCK):
        strip = np.ascontiguousarray(-scores[start : start + _BLOCK])
        order = np.argsort(strip, axis=1, kind="stable")
        np.put_along_axis(places[start : start + _BLOCK], order, counting, axis=1)
    return places


def _recalls(name: str, places: Places, relevance: Relevance) -> dict[str, float]:
    query, best = relevance.positives.query, np.full(len(places), places.shape[1])
    np.minimum.at(best, query, places[query, relevance.positives.entries])
    asked = best[relevance.asked]
    found = {f"{name}/r{k}": 100 * float((asked < k).mean()) for k in (1, 5, 10)}
    return found | {f"{name}/medr": float(np.median(asked)) + 1, f"{name}/meanr": float(asked.mean()) + 1}


def _precisions(name: str, places: Places, relevance: Relevance) -> dict[str, float]:
    asked, query = relevance.asked, relevance.positives.query
    total = relevance.total[asked, None]
    hits = np.zeros(places.shape, bool)
    hits[query, places[query, relevance.positives.entries]] = True
    ranks = np.arange(total.max())
    hits = hits[asked, : len(ranks)] & (ranks < total)
    precision = hits.cumsum(1) / (ranks + 1)
    found = {"r1": hits[:, :1], "r_precision": hits / total, "map_at_r": hits * precision / total}
    return {f"{name}/{figure}": 100 * float(values.sum(1).mean()) for figure, values in found.items()}


def correlations(scores: Floats, labels: Floats) -> dict[str, float]:
    """Tau-b and rho of one query's gallery."""
    return {"kendall": kendalltau(scores, labels).statistic, "spearman": spearmanr(scores, labels).statistic}


def at_the_top(scores: Floats, labels: Floats, own: Integers, ks: Sequence[int]) -> dict[str, float]:
    """CS@K and NCS@K of one query's gallery, `own` left out of the latter."""
    order, result = np.argsort(-scores, kind="stable"), {}
    others, ideal = order[~np.isin(order, own)], np.sort(np.delete(labels, own))[::-1].astype(np.float64)
    for k in ks:
        result[f"cs{k}"] = kendalltau(scores[order[:k]], labels[order[:k]]).statistic
        result[f"ncs{k}"] = labels[others[:k]].astype(np.float64).sum() / ideal[:k].sum()
    return result
