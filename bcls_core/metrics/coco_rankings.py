"""Rankings of the COCO 5K test as other tools hand them over: lists of COCO ids, checked before anything is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import InputError, ShapeError
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth, CocoIds, Judgements, Relevance
from bcls_core.metrics.ranks import Integers

Rankings = Mapping[int, Sequence[int] | NDArray[np.integer[Any]]]
"""A query's COCO id and the COCO ids of the whole gallery, best first."""

Direction = Literal["i2t", "t2i"]

_NOUNS: dict[Direction, tuple[str, str]] = {"i2t": ("image", "caption"), "t2i": ("caption", "image")}


def both_ranks(
    i2t: Rankings, t2i: Rankings, ground_truth: CocoGroundTruth, judgements: Judgements
) -> tuple[Integers, Integers]:
    """(pairs of i2t,) and (pairs of t2i,) int64 rank of every positive, from 0; raises as `ordered` does."""
    return (
        _ranks("i2t", i2t, ground_truth, judgements.i2t),
        _ranks("t2i", t2i, ground_truth, judgements.t2i),
    )


def ordered(
    direction: Direction, rankings: Rankings, ground_truth: CocoGroundTruth, asked: Integers
) -> Iterator[tuple[int, NDArray[np.int32], Integers]]:
    """The rankings of the queries that are asked, as places in the ground truth.

    Args:
        direction: `i2t`: images rank captions; `t2i`: captions rank images.
        rankings: of all queries that are asked; those of others are not looked at.
        asked: (n,) places of these queries.

    Yields:
        The query; (gallery,) which entry stands at each rank; (gallery,) the rank of each entry, an array that the next
        step overwrites.

    Raises:
        InputError: queries are missing; or, at the end of the iteration, rankings name what is not in the gallery, name
            something twice, or leave something out. Says how many and names the first.
        ShapeError: a ranking is no row of whole numbers.
    """
    queries, gallery = _sides(direction, ground_truth)
    one, other = _NOUNS[direction]
    names = queries.values[asked].tolist()
    _require_queries(direction, rankings, names)
    problems: dict[str, list[tuple[int, str]]] = {"unknown": [], "twice": [], "short": []}
    ranks, counting = np.empty(len(gallery), np.int64), np.arange(len(gallery))
    for query, name in zip(asked.tolist(), names, strict=True):
        ids = _row_of_ids(f"{direction}: {one} {name}", rankings[name])
        order = gallery.find(ids)
        if len(ids) == len(gallery):
            ranks.fill(-1)
            ranks[order] = counting  # an entry twice, or one that is unknown and counts from the end, leaves a gap
            if ranks.min() >= 0 and order.min() >= 0:
                yield query, order, ranks
                continue
        kind, found = _problem(ids, order, len(gallery))
        problems[kind].append((name, found))
    advice = {
        "unknown": f"rank other {other}s than the ground truth's. Give COCO {other} ids, and as the gallery exactly "
        f"its {len(gallery):,} {other}s",
        "twice": f"rank a {other} twice. Rank each of the {len(gallery):,} {other}s once",
        "short": f"are shorter than the gallery, which changes R-Precision. Rank all {len(gallery):,} {other}s",
    }
    for kind, cases in problems.items():
        if cases:
            name, found = cases[0]
            raise InputError(
                f"{direction}: {len(cases)} of {len(asked)} rankings {advice[kind]}. That of {one} {name}: {found}."
            )


def _sides(direction: Direction, ground_truth: CocoGroundTruth) -> tuple[CocoIds, CocoIds]:
    sides = (ground_truth.images, ground_truth.captions)
    return sides if direction == "i2t" else (sides[1], sides[0])


def _ranks(direction: Direction, rankings: Rankings, ground_truth: CocoGroundTruth, relevance: Relevance) -> Integers:
    starts, entries = relevance.positives.starts, relevance.positives.entries
    found = np.empty(len(entries), np.int64)
    for query, _, ranks in ordered(direction, rankings, ground_truth, relevance.asked):
        own = slice(starts[query], starts[query + 1])
        found[own] = ranks[entries[own]]
    return found


def _require_queries(direction: Direction, rankings: Rankings, names: list[int]) -> None:
    if not isinstance(rankings, Mapping):
        raise InputError(f"{direction}: {type(rankings).__name__}, expected a dictionary of ids with their rankings.")
    missing = [name for name in names if name not in rankings]
    if missing:
        one = _NOUNS[direction][0]
        given = f"the first of those given is {next(iter(rankings))!r}" if rankings else "none is given"
        raise InputError(
            f"{direction}: {len(missing)} of the {len(names)} {one}s that the ground truth asks have no ranking, "
            f"{missing[0]} for one; {given}. Give a ranking for each, under its COCO {one} id as a whole number."
        )


def _row_of_ids(name: str, ranking: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    try:
        ids = np.asarray(ranking)
    except (ValueError, OverflowError) as error:
        raise ShapeError(f"{name}: its ranking is no row of whole numbers ({error}).") from error
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise ShapeError(f"{name}: its ranking is {ids.dtype} of shape {ids.shape}, expected a row of COCO ids.")
    return ids


def _problem(ids: NDArray[np.integer[Any]], order: NDArray[np.int32], gallery: int) -> tuple[str, str]:
    unknown = ids[order < 0]
    if len(unknown):
        return "unknown", f"{len(unknown)} of {len(ids)} are unknown, such as {unknown[0]}"
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) < len(ids):
        return "twice", f"{distinct[counts > 1][0]}, for one"
    return "short", f"{len(ids)} of {gallery}"
