"""Agreement of scores with graded labels, query by query, in one pass over both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import over_rows
from bcls_core.errors import ConfigError, ShapeError
from bcls_core.metrics.ranks import Positives
from bcls_core.metrics.strips import Scores, comparable, strips_of

Values = NDArray[np.float64]

_STRIP_VALUES = 2**22
_WHOLE = 2**53
_SORTING = 256  # steps, of the kind that `over_rows` counts, that an entry's sorts and counts take


@dataclass(frozen=True)
class GradedQueries:
    """What each query of one direction earns; NaN where a figure is not defined.

    Attributes:
        kendall: (queries,) tau-b over the whole gallery; not defined where scores or labels are all equal.
        spearman: (queries,) rho, ties at their average rank; defined as tau-b is.
        coherence: per cut K the tau-b of the K best by score.
        gain: per cut K the labels' sum of the K best by score over that of the K best by label, own entries left out;
            not defined where the latter is not positive.
    """

    kendall: Values
    spearman: Values
    coherence: dict[int, Values]
    gain: dict[int, Values]


def graded_queries(
    scores: Scores,
    labels: Scores,
    own: tuple[Positives, Positives] | None = None,
    *,
    ks: Sequence[int] = (),
    block: int | None = None,
) -> tuple[GradedQueries, GradedQueries]:
    """Both directions, a strip of scores and labels at a time.

    Time: a sort of each query's scores and labels. Equal scores are ranked by index, the lower first.

    Args:
        scores: (images, captions), higher is closer; infinities are ordered.
        labels: (images, captions), higher is more relevant.
        own: captions of each image and image of each caption, for `gain`; none if None.
        ks: the cuts; one that exceeds the gallery keeps all of it.
        block: queries at a time; no result depends on it.

    Raises:
        ShapeError: shapes disagree, or a value is NaN (names row and column).
        ConfigError: a cut below 1.
    """
    s, r = strips_of("scores", scores), strips_of("labels", labels)
    if (s.images, s.captions) != (r.images, r.captions):
        raise ShapeError(f"labels: shape {(r.images, r.captions)}, but scores have {(s.images, s.captions)}.")
    for k in ks:
        if not isinstance(k, int) or not 1 <= k <= _WHOLE:
            raise ConfigError(f"ks: {k!r}, each must be a whole number and at least 1.")
    nobody = Positives.of([], [], s.images), Positives.of([], [], s.captions)
    own_captions, own_images = nobody if own is None else own
    return (
        _direction(s.image_rows, r.image_rows, s.images, s.captions, own_captions, ks, block),
        _direction(s.caption_rows, r.caption_rows, s.captions, s.images, own_images, ks, block),
    )


def descending(values: NDArray[Any]) -> NDArray[np.int64]:
    """Orders of (rows, columns) values from the highest to the lowest; equal ones by column."""
    from bcls_core.order_kernels import ascending

    # Adding 0 turns -0 into +0, which is not lower.
    return ascending(-values + values.dtype.type(0)) if values.dtype == np.float32 else _stable(values)


def _stable(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.argsort(-values, axis=1, kind="stable")


def _direction(
    read_scores: Any,
    read_labels: Any,
    queries: int,
    gallery: int,
    own: Positives,
    ks: Sequence[int],
    block: int | None,
) -> GradedQueries:
    from bcls_core.metrics.graded_kernels import agree  # loads a compiler: only for who needs it

    kendall, spearman = np.empty(queries), np.empty(queries)
    coherence, gain = np.empty((queries, len(ks))), np.empty((queries, len(ks)))
    tops = np.array(ks, np.int64)
    length = block or max(1, _STRIP_VALUES // gallery)
    for start in range(0, queries, length):
        stop = min(start + length, queries)
        s = _floating("scores", comparable("scores", read_scores(start, stop), start))
        r = _floating("labels", comparable("labels", read_labels(start, stop), start))
        found = [values[start:stop] for values in (kendall, spearman, coherence, gain)]

        def count(part: slice) -> None:
            orders = descending(s[part]), descending(r[part])  # noqa: B023
            results = [values[part] for values in found]  # noqa: B023
            agree(s[part], r[part], *orders, start + part.start, own.starts, own.entries, tops, *results)  # noqa: B023

        over_rows(count, stop - start, steps=(stop - start) * gallery * _SORTING)
    return GradedQueries(
        kendall,
        spearman,
        {k: coherence[:, cut] for cut, k in enumerate(ks)},
        {k: gain[:, cut] for cut, k in enumerate(ks)},
    )


def _floating(name: str, strip: NDArray[Any]) -> NDArray[Any]:
    if strip.dtype in (np.float32, np.float64):
        return strip
    if strip.dtype.itemsize == 8 and (strip.max() > _WHOLE or strip.min() < -_WHOLE):
        raise ShapeError(f"{name}: whole numbers beyond 2^53, which float64 does not tell apart. Give their ranks.")
    return strip.astype(np.float64)


def mean_of_defined(values: Values) -> tuple[float, float]:
    """Mean over the queries that have a value, NaN for none of them, and their number."""
    defined = values[~np.isnan(values)]
    return (float(defined.mean()) if len(defined) else float("nan")), float(len(defined))
