"""How sure is a metric: intervals, and differences of two models, from resampling images and allowing for seeds.

The unit that is drawn is the image with all its captions; where a recipe was trained with several seeds, all evaluated
on the same gallery, an interval also speaks about seeds that were not trained. How the two are put together is written
in `contrasts`.

`tests/benchmarks/coverage.py` measures how often intervals of 95 % hold a known truth, over some hundred made-up cases
of 1,000 simulations (0.7 points of chance each). One training, rates of 10 to 90 %, 100 or 500 images: 92.9 to 95.8 %.
Five seeds: 93.6 to 97.3 %. Three seeds: 94.6 to 99.3 %, 97.1 on average, so rather too long than too short. Rates of 2
or 98 % on 50 to 200 images: 92.3 to 94.1 % for one model, but for a difference of two, which few queries decide, 85 to
87 % on 50 images, 91 on 100 and 93 on 200. A rate of exactly 0 or 100 % has an interval of no width: where no query
fails, nothing tells how many might.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.metrics.arrays import Matrix, as_numpy
from bcls_core.metrics.contrasts import Side, contrast
from bcls_core.metrics.replicates import Floats, Mean, Statistic, replicates
from bcls_core.metrics.resamples import ImageResamples

Seeds = Statistic | Sequence[Statistic]  # one statistic, or one for each seed of a recipe
_Groups = Mapping[str, tuple[Sequence[Statistic], Sequence[Statistic]]]


@dataclass(frozen=True)
class Interval:
    """A metric and the range its true value is in, at the confidence asked for; all in the metric's unit."""

    estimate: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Second model minus first, so positive where the second has more; `low` and `high` as in `Interval`.

    `p_value` is two-sided, of the hypothesis that the models do not differ: twice the share of replicates on the rarer
    side of zero, zeros counted on both, plus one each for the data itself. With R draws it is at least 2 / (R + 1).
    """

    difference: float
    low: float
    high: float
    p_value: float

    def as_dict(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


def interval(statistics: Seeds, *, resamples: ImageResamples, confidence: float = 0.95) -> Interval:
    """The mean over seeds of a metric, and its interval; formula in `contrasts`.

    With one seed the interval speaks about that one trained model on other images, not about its recipe. With two,
    Student's t has one degree of freedom, and an interval that holds tells little: train three or more.

    Args:
        statistics: one, or one for each seed.
        resamples: the draws.
        confidence: in (0, 1).

    Returns:
        Draws on which the metric is not defined are left out. All NaN where the estimate itself is not defined.

    Raises:
        ShapeError: no statistic, one whose queries belong to a single image, or to an image that is not drawn.
        ConfigError: confidence outside (0, 1).
    """
    return intervals({"": statistics}, resamples=resamples, confidence=confidence)[""]


def intervals(
    metrics: Mapping[str, Seeds], *, resamples: ImageResamples, confidence: float = 0.95
) -> dict[str, Interval]:
    """`interval` of each metric by name, in one walk over the draws: as much faster as there are metrics."""
    groups: _Groups = {name: ([], _seeds(given)) for name, given in metrics.items()}
    return {
        name: Interval(estimate, *_range(found, confidence))
        for name, (estimate, found) in _walk(groups, resamples, confidence).items()
    }


def difference(first: Seeds, second: Seeds, *, resamples: ImageResamples, confidence: float = 0.95) -> Difference:
    """Second minus first (the baseline comes first) of one metric, paired: both on the same draws of images.

    Seeds of the two are different trainings: they are independent, and may differ in number. A model of one seed is
    taken as it is, as in `interval`. Arguments and errors as there.
    """
    return differences({"": (first, second)}, resamples=resamples, confidence=confidence)[""]


def differences(
    metrics: Mapping[str, tuple[Seeds, Seeds]], *, resamples: ImageResamples, confidence: float = 0.95
) -> dict[str, Difference]:
    """`difference` of each (first, second) by name, in one walk over the draws."""
    groups: _Groups = {name: (_seeds(first), _seeds(second)) for name, (first, second) in metrics.items()}
    return {
        name: Difference(estimate, *_range(found, confidence), _p_value(found))
        for name, (estimate, found) in _walk(groups, resamples, confidence).items()
    }


def paired_bootstrap(
    first: Matrix,
    second: Matrix,
    image: Sequence[Hashable] | Matrix | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Mean of second minus mean of first (the baseline comes first), images resampled with all their queries.

    Args:
        first, second: (queries,) or (seeds, queries) values of two models on the same queries, such as 1.0 for a hit at
            rank 1 and 0.0 for a miss; the seeds may differ in number. NaN leaves a query out, in all of them.
        image: (queries,) whatever names the image of each query; None if each query is its own image.
        confidence: in (0, 1).
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ShapeError: shapes disagree, a value is infinite, or NaN in one place and not in another (names the query), all
            are NaN, or there are fewer than 2 images.
        ConfigError: confidence outside (0, 1), no resamples, or a negative seed.

    Example:
        >>> paired_bootstrap(baseline_ranks < 1, ranks < 1, caption_image).p_value
    """
    values = [np.atleast_2d(as_numpy(given).astype(np.float64)) for given in (first, second)]
    shapes = [given.shape for given in values]
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ShapeError(
            f"first, second: shapes {shapes[0]} and {shapes[1]} as (seeds, queries), expected as many queries in both, "
            "and at least one."
        )
    missing = np.isnan(np.concatenate(values))
    partly = missing.any(0) != missing.all(0)
    if partly.any():
        raise ShapeError(
            f"first, second: query {int(partly.argmax())} is nan in one and has a value in another. "
            "Models are compared on the same queries: leave it out of all."
        )
    rows, images = _image_rows(image, shapes[0][1])
    of_seeds = [[Mean(row, rows) for row in given] for given in values]
    return difference(*of_seeds, resamples=ImageResamples(images, resamples, seed), confidence=confidence)


def _image_rows(image: Sequence[Hashable] | Matrix | None, queries: int) -> tuple[NDArray[np.int64], int]:
    """Row of each query's image, in order of appearance, and their number."""
    if image is None:
        return np.arange(queries), queries
    names: list[Any] = list(image.tolist() if hasattr(image, "tolist") else image)
    if len(names) != queries:
        raise ShapeError(f"image: {len(names)} for {queries} queries, expected the image of each query.")
    for query, name in enumerate(names):
        if name != name:
            raise ShapeError(f"image: nan for query {query}. Name the image of every query.")
    rows: dict[Any, int] = {}
    return np.array([rows.setdefault(name, len(rows)) for name in names], dtype=np.int64), len(rows)


def _seeds(given: Seeds) -> Sequence[Statistic]:
    seeds = [given] if isinstance(given, Statistic) else given
    if not seeds:
        raise ShapeError("statistics: none, expected one for each seed.")
    for seed, statistic in enumerate(seeds):
        if len(statistic.asked) < 2:
            raise ShapeError(f"statistics: the queries of seed {seed} all belong to one image; nothing varies.")
    return seeds


def _walk(
    groups: _Groups,
    resamples: ImageResamples,
    confidence: float,
) -> dict[str, tuple[float, Floats]]:
    """Estimate and replicates of second minus first, or of second where there is no first."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence: {confidence}, expected a number between 0 and 1, such as 0.95.")
    if not groups:
        return {}
    found = replicates([each for group in groups.values() for side in group for each in side], resamples)
    levels = resamples.levels()
    result, start = {}, 0
    for name, group in groups.items():
        sides = []
        for side in group:
            if side:
                estimates = np.array([each.estimate for each in side])
                is_mean = all(each.is_mean for each in side)
                sides.append(Side(estimates, found[start : start + len(side)], is_mean))
                start += len(side)
        result[name] = contrast(sides, levels)
    return result


def _range(found: Floats, confidence: float) -> tuple[float, float]:
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _p_value(found: Floats) -> float:
    if not len(found):
        return float("nan")
    rarer = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(found) + 1))
